"""How much of a change is still there in what was merged: the lines it added, file by file. Pure.

A measure of lines, not of meaning: a line that was moved within its file counts as kept, one that was reformatted does
not.
"""

from __future__ import annotations

from collections import Counter

from agent.hygiene import sections_by_path
from agent.noticed import lines_of
from agent.outcome import Patch


def survived(ours: Patch, merged: Patch) -> float | None:
    """The share, 0 to 1, of the lines that `ours` added which `merged` added too; both from the same base. Lines
    without a letter or digit (braces, blank lines) say nothing and don't count. None where ours added no line that
    counts."""
    added, there = _added(ours), _added(merged)
    total = sum(map(Counter.total, added.values()))
    if total == 0:
        return None
    return sum((lines & there.get(path, Counter())).total() for path, lines in added.items()) / total


def _added(patch: Patch) -> dict[str, Counter[str]]:
    return {
        path: Counter(line.strip() for line in lines_of(section, "+") if any(map(str.isalnum, line)))
        for path, section in sections_by_path(patch.diff).items()
    }
