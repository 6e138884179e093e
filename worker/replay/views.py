"""Numbered views of files, as editors show them to a model, against the file that is here: they tell whether an edit by
line number would meet the lines that it was meant for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LINE = re.compile(r"^(?:(\d+)[:|]| *(\d+)\t)(.*)$")
_NEAR = 3  # lines around an edit that have to be where they were
_WINDOW = 200  # how far away a moved place is looked for


def numbered(text: str) -> dict[int, str]:
    """The lines of a view by their number: `12:text`, `12|text`, or as `cat -n` has them."""
    found = (_LINE.match(line) for line in text.split("\n"))
    return {int(line[1] or line[2]): line[3] for line in found if line}


@dataclass(frozen=True)
class Place:
    """Where lines of a view are in the file here: `shift` lines further down. `exact` says whether all of them are."""

    shift: int
    exact: bool


def locate(view: Mapping[int, str], lines: list[str]) -> Place | None:
    """Where a whole view is in a file; None where it is nowhere, or at several places alike."""
    if not view:
        return None
    scores: dict[int, int] = {}
    for shift in sorted(range(-_WINDOW, _WINDOW + 1), key=abs):
        scores[shift] = sum(_same(view[number], lines, number + shift) for number in view)
    best = max(scores, key=lambda shift: (scores[shift], -abs(shift)))
    if scores[best] * 2 < len(view):
        return None
    return Place(shift=best, exact=scores[best] == len(view))


def anchor(view: Mapping[int, str], first: int, last: int, lines: list[str]) -> int | None:
    """By how much an edit of the lines `first` to `last` has to move, so that it and what is near it meet what the view
    showed there. 0 where nothing moved or no view told; None where the place is not here, or not one."""
    told = {number: view[number] for number in range(first - _NEAR, last + _NEAR + 1) if number in view}
    if not told:
        return 0
    fits = [
        shift
        for shift in range(-_WINDOW, _WINDOW + 1)
        if all(_same(text, lines, number + shift) for number, text in told.items())
    ]
    if 0 in fits:
        return 0
    return fits[0] if len(fits) == 1 else None


def _same(text: str, lines: list[str], number: int) -> bool:
    return 0 < number <= len(lines) and lines[number - 1].rstrip() == text.rstrip()
