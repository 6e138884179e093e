"""The parts of an agent's last message, where it kept to the form that it was asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.types import Frozen

_PART = re.compile(r"^[\W_]{0,4}(WRONG|CHANGED|RAN|UNCERTAIN)\b[*_]{0,2}:[*_]{0,2}\s*(.*)$")
_FILE = re.compile(r"^[\s*+-]*`?(?P<path>[^\s`:]+)`?\s*(?::|\s[\u2013\u2014-]\s)\s*(?P<what>\S.*)$")
_NOTHING = re.compile(r"^[\W_]*(nothing|none|no|n/a)?[\W_]*$", re.IGNORECASE)


class Summary(Frozen):
    """`rest` is what stood before the first part; all of it, where there are none. `files`: what it says of each."""

    rest: str
    wrong: str = ""
    changed: str = ""
    ran: str = ""
    uncertain: str = ""
    files: Mapping[str, str] = {}

    @property
    def in_parts(self) -> bool:
        return bool(self.wrong or self.changed)


def summary(text: str) -> Summary:
    """A part begins with its word in capitals and a colon, and goes on until the next; said twice, both count."""
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.strip().split("\n"):
        match = _PART.match(line.strip())
        if match is None:
            parts[current].append(line)
            continue
        current = match[1].lower()
        parts.setdefault(current, []).append(match[2])
    told = {name: "\n".join(lines).strip() for name, lines in parts.items()}
    uncertain = told.get("uncertain", "")
    changed = told.get("changed", "")
    return Summary(
        rest=told[""],
        wrong=told.get("wrong", ""),
        changed=changed,
        ran=told.get("ran", ""),
        uncertain="" if _NOTHING.match(uncertain) else uncertain,
        files=_files(changed),
    )


def _files(changed: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in changed.split("\n"):
        match = _FILE.match(line.strip())
        if match is not None:
            found.setdefault(match["path"].removeprefix("./").removeprefix("/workspace/"), match["what"].strip())
    return found
