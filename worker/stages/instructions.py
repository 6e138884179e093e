"""What a repository's maintainers ask of contributors, for the model: the usual files of the base commit."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence

from agent.prompts.fence import bounded

# The first that exists at the root speaks for the whole repository.
ROOT = (
    "AGENTS.md",
    "AGENT.md",
    "CLAUDE.md",
    ".github/copilot-instructions.md",
    "VIBE.md",
    ".vibe.md",
    "GEMINI.md",
    ".cursorrules",
    ".clinerules",
)
# Below it, each holds for its own directory; of several in one directory the first in this order.
NESTED = ("AGENTS.md", "AGENT.md", "CLAUDE.md", "GEMINI.md")
_SHOWN = 8  # nested files that are shown
_NAMED = 40  # and that are named beyond those
_BYTES = 4_000  # of one nested file


def instructions(read: Callable[[str], bytes | None], files: Sequence[str]) -> str | None:
    """The root's file, then the nested ones under the name of their directory: a few with their text, more by name.
    `files`: all paths of the base commit; None where there is nothing."""
    root = next((_text(content) for path in ROOT if (content := read(path)) is not None), "")
    parts = [root.strip()]
    nested = _nested(files)
    texts = ((path, _text(read(path) or b"").strip()) for path in nested[:_SHOWN])
    parts += [
        f"For changes below {posixpath.dirname(path)}/ ({path}):\n\n{bounded(text, _BYTES)}"
        for path, text in texts
        if text
    ]
    if more := nested[_SHOWN : _SHOWN + _NAMED]:
        listed = "\n".join(f"- {path}" for path in more)
        unnamed = len(nested) - _SHOWN - len(more)
        rest = f"\n- and {unnamed} more" if unnamed > 0 else ""
        parts.append(f"Read these before you change files in their directories:\n{listed}{rest}")
    return "\n\n".join(filter(None, parts)) or None


def _nested(files: Sequence[str]) -> list[str]:
    """One per directory, those nearest to the root first."""
    chosen: dict[str, str] = {}
    for path in files:
        directory, name = posixpath.split(path)
        if directory and name in NESTED and path.isprintable():
            other = chosen.get(directory)
            if other is None or NESTED.index(name) < NESTED.index(posixpath.basename(other)):
                chosen[directory] = path
    return sorted(chosen.values(), key=lambda path: (path.count("/"), path))


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
