"""A short map of a repository's files: as deep as fits, directories beyond that with their number of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

ENTRIES = 400
_DEEPEST = 6
_NAME = 100  # characters of one name that are shown


def file_map(paths: Sequence[str], entries: int = ENTRIES) -> str:
    """An indented tree of at most `entries` lines, sorted, and a line for what is left out."""
    printable = sorted({path for path in paths if path.isprintable()})
    held = Counter(directory for path in printable for directory in _directories(path))
    lines = _lines(printable, held, 1)
    for depth in range(2, _DEEPEST + 1):
        deeper = _lines(printable, held, depth)
        if len(deeper) > entries:
            break
        lines = deeper
    left_out = len(lines) - entries
    return "\n".join(lines[:entries]) + (f"\n[... {left_out} more entries]" if left_out > 0 else "")


def _directories(path: str) -> list[str]:
    """`a/b/c.py` lies in `a/` and `a/b/`."""
    return [path[: index + 1] for index, char in enumerate(path) if char == "/"]


def _lines(paths: Sequence[str], held: Mapping[str, int], depth: int) -> list[str]:
    """The tree down to `depth` levels."""
    lines: list[str] = []
    shown: set[str] = set()
    for path in paths:
        directories = _directories(path)
        for level, directory in enumerate(directories[:depth], start=1):
            if directory not in shown:
                shown.add(directory)
                inside = f" ({held[directory]} files)" if level == depth else ""
                lines.append(_line(directory, level) + "/" + inside)
        if len(directories) < depth:
            lines.append(_line(path, len(directories) + 1))
    return lines


def _line(path: str, level: int) -> str:
    return "  " * (level - 1) + path.rstrip("/").rsplit("/", 1)[-1][:_NAME]
