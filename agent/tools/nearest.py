"""Why a search text is not in a file: the lines most like it, what differs, and what to do next."""

from __future__ import annotations

import difflib
from collections import Counter

_CANDIDATES = 8
_COMMONPLACE = 50  # a line found this often, like `return` or `}`, says nothing about the place
_TELLING = 8  # characters: a shorter text is in a file by accident
_LINES_COMPARED = 20_000  # beyond this a file is too long to look for likeness in reasonable time


def explain(search: str, content: str, replace: str) -> str:
    """Words for the model about a `search` that `content` doesn't hold."""
    wanted, lines = search.split("\n"), content.split("\n")
    start = _nearest(wanted, lines)
    if len(replace.strip()) >= _TELLING and replace in content:
        return "the REPLACE text is already in the file; this edit seems to have been made before"
    if start is None:
        return "nothing in the file is like it; read the file again and copy the lines exactly"
    region = lines[start : start + len(wanted)]
    diff = "\n".join(
        line for line in difflib.unified_diff(wanted, region, "SEARCH", "file", lineterm="", n=2) if line[:2] != "@@"
    )
    return (
        f"the nearest lines start at line offset {start}. What differs: {_difference(wanted, region)}.\n{diff}\n"
        f"Take the file's own text for SEARCH (read_file with offset={start}, limit={len(wanted)} shows it)"
    )


def _nearest(wanted: list[str], lines: list[str]) -> int | None:
    """Where the region most like `wanted` starts, if anything is alike at all."""
    places: dict[str, list[int]] = {}
    for index, line in enumerate(lines[:_LINES_COMPARED]):
        places.setdefault(_bare(line), []).append(index)
    starts: Counter[int] = Counter()
    for position, line in enumerate(wanted):
        bare = _bare(line)
        found = places.get(bare, []) if bare else []
        if not found and bare and not starts:
            close = difflib.get_close_matches(bare, places, n=3, cutoff=0.75)
            found = [index for match in close for index in places[match]]
        if len(found) > _COMMONPLACE:
            continue
        starts.update(max(index - position, 0) for index in found)
    best = [start for start, _ in starts.most_common(_CANDIDATES)]
    whole = "\n".join(wanted)
    return max(best, key=lambda start: _likeness(whole, "\n".join(lines[start : start + len(wanted)])), default=None)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one[:5000], other[:5000], autojunk=False).quick_ratio()


def _bare(line: str) -> str:
    return "".join(line.split())


def _difference(wanted: list[str], region: list[str]) -> str:
    """The first explanation under which both are the same, from the smallest difference to the largest."""
    same_if = (
        ("blanks at line ends", str.rstrip),
        ("tabs against spaces", lambda line: line.expandtabs(4).rstrip()),
        ("indentation", str.strip),
        ("blanks inside lines", _bare),
        ("backslashes (write them once, as in the file)", lambda line: _bare(line).replace("\\", "")),
        ("upper and lower case", lambda line: _bare(line).casefold()),
    )
    for name, view in same_if:
        if [view(line) for line in wanted] == [view(line) for line in region]:
            return name
    unlike = sum(one != other for one, other in zip(wanted, region, strict=False)) + abs(len(wanted) - len(region))
    return f"{unlike} of {len(wanted)} lines"
