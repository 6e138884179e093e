"""What the model is told: templates from this folder, filled deterministically (no dates, no names of this machine),
and the hash that names their exact wording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template

from agent.prompts.fence import bounded, tag_for, visible
from agent.prompts.filemap import file_map
from agent.types import Limits, Task, ToolSpec

_FILES = ("system.md", "task.md", "nudges.md")
_INSTRUCTIONS_BYTES = 32 << 10
_BODY_BYTES = 24_000
_TITLE_CHARACTERS = 300


def system() -> str:
    """The same for every run, so that engines share its prefix between all of them."""
    return _source("system.md").strip()


def task(task: Task, limits: Limits) -> str:
    """The first user message. No part takes more than about a quarter of the window (some four bytes a token)."""
    part = limits.context_tokens
    body = bounded(visible(task.body), min(_BODY_BYTES, part)) or "(the issue has no text beyond its title)"
    shown = [
        _fill(
            "issue",
            repository=visible(task.repository),
            base_commit=task.base_commit,
            title=" ".join(visible(task.title).split())[:_TITLE_CHARACTERS],
            tag=tag_for("issue_text", body),
            body=body,
        )
    ]
    if task.test_command:
        shown.append(_fill("test_command", test_command=visible(task.test_command)))
    if task.instructions and task.instructions.strip():
        instructions = bounded(visible(task.instructions), min(_INSTRUCTIONS_BYTES, part))
        shown.append(
            _fill("instructions", tag=tag_for("repository_instructions", instructions), instructions=instructions)
        )
    if task.files:
        shown.append(_fill("files", files=file_map(task.files)))
    return "\n\n".join(shown)


def nudge(name: str) -> str:
    """A remark of the loop to the model, by its name in nudges.md."""
    return _sections("nudges.md")[name]


def not_saved(reason: str, detail: str) -> str:
    """What the model is told when its changes can't be saved; `detail` says what they are, where that is known."""
    template = Template(nudge("not_saved"))
    return template.substitute(reason=reason, detail=f" {detail}" if detail else "")


def prompt_hash(tools: Sequence[ToolSpec]) -> str:
    """sha256 over the templates and the tools as offered: equal hashes mean equally worded prompts."""
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update(f"{name}\0{_source(name)}\0".encode())
    offered = [tool.model_dump(mode="json") for tool in tools]
    digest.update(json.dumps(offered, sort_keys=True, ensure_ascii=True).encode())
    return digest.hexdigest()


def _fill(section: str, **values: str) -> str:
    # substitute() does not look into what it filled in: a `$` in the issue stays a `$`.
    return Template(_sections("task.md")[section]).substitute(values)


@cache
def _source(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


@cache
def _sections(name: str) -> dict[str, str]:
    """The parts of a template file, each under a line `%% name`."""
    parts = {}
    for part in ("\n" + _source(name)).split("\n%% ")[1:]:
        heading, _, text = part.partition("\n")
        parts[heading.strip()] = text.strip()
    return parts
