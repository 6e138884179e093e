"""What an agent answers to each remark of a review: lines of its last answer that begin with its number. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LINE = re.compile(r"^(?:\d{1,3}[.)]\s*)?[\W_]{0,6}?\[(\d{1,3})\][\s:*_\u2013\u2014-]*(.*)$")
LONGEST = 2_000


def replies(summary: str, count: int) -> Mapping[int, str]:
    """By the remark's number, 1 to `count`; the first counts where one is answered twice. A reply goes on until the
    next one, or until an empty line."""
    found: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in summary.split("\n"):
        text = line.strip()
        match = _LINE.match(text)
        if match is not None:
            number = int(match[1])
            fresh = 1 <= number <= count and number not in found
            current = found.setdefault(number, []) if fresh else None
            text = match[2].strip()
        if text and current is not None:
            current.append(text)
        elif not text and current:
            current = None
    return {number: "\n".join(lines)[:LONGEST] for number, lines in found.items() if lines}
