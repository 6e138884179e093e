"""What the model is told: templates from this folder, filled deterministically (no dates, no names of this machine),
and the hash that names their exact wording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from string import Template

from agent.prompts import revising
from agent.prompts.fence import bounded, tag_for, visible
from agent.prompts.filemap import ENTRIES, file_map
from agent.prompts.later import FILE as LATER
from agent.prompts.links import listed
from agent.prompts.templates import fill, sections, source
from agent.types import Limits, Task, ToolSpec

_FILES = ("system.md", "task.md", "nudges.md", LATER, revising.FILE)
_INSTRUCTIONS_BYTES = 32 << 10
_BODY_BYTES = 24_000
_TITLE_CHARACTERS = 300


def system() -> str:
    """The same for every run, so that engines share its prefix between all of them."""
    return source("system.md").strip()


def task(task: Task, limits: Limits, share: float = 1.0, *, files: bool = True) -> str:
    """The first user message. No part takes more than about a quarter of the window (some four bytes a token), or than
    `share` of that; `files`: with the map of the repository."""
    part = int(limits.context_tokens * share)
    body = bounded(visible(task.body), min(_BODY_BYTES, part)) or "(the issue has no text beyond its title)"
    # The issue and the commit come last: runs of one repository then share what is the same before them, and an engine
    # computes that once.
    shown = [_fill("repository", repository=visible(task.repository))]
    if task.instructions and task.instructions.strip():
        instructions = bounded(visible(task.instructions), min(_INSTRUCTIONS_BYTES, part))
        shown.append(
            _fill("instructions", tag=tag_for("repository_instructions", instructions), instructions=instructions)
        )
    if task.test_command:
        shown.append(_fill("test_command", test_command=visible(task.test_command)))
    if task.files and files:
        shown.append(_fill("files", files=file_map(task.files, _entries(limits, share))))
    title = " ".join(visible(task.title).split())[:_TITLE_CHARACTERS]
    shown.append(_fill("issue", base_commit=task.base_commit, title=title, tag=tag_for("issue_text", body), body=body))
    if links := "\n".join(listed(body)):
        shown.append(_fill("links", tag=tag_for("links", links), links=links))
    if task.revision is not None:
        shown += revising.told(task.revision, part)
    return "\n\n".join(shown)


def nudge(name: str) -> str:
    """A remark of the loop to the model, by its name in nudges.md."""
    return sections("nudges.md")[name]


def remarks(note: str, name: str) -> bool:
    """Whether a step's note holds the loop's remark of that name, whatever it was filled with."""
    text = {**sections("nudges.md"), **sections(LATER)}[name]
    return text.partition("$")[0] in note


def not_saved(reason: str, detail: str) -> str:
    """What the model is told when its changes can't be saved; `detail` says what they are, where that is known."""
    template = Template(nudge("not_saved"))
    return template.substitute(reason=reason, detail=f" {detail}" if detail else "")


def prompt_hash(tools: Sequence[ToolSpec]) -> str:
    """sha256 over the templates and the tools as offered: equal hashes mean equally worded prompts."""
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update(f"{name}\0{source(name)}\0".encode())
    offered = [tool.model_dump(mode="json") for tool in tools]
    digest.update(json.dumps(offered, sort_keys=True, ensure_ascii=True).encode())
    return digest.hexdigest()


def _entries(limits: Limits, share: float) -> int:
    """Lines of the map: some ten tokens each, an eighth of the window at most."""
    return max(1, int(min(ENTRIES, limits.context_tokens // 80) * share))


def _fill(section: str, **values: str) -> str:
    return fill("task.md", section, **values)
