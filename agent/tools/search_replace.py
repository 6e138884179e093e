"""`search_replace`: exact replacements in one file, all of the given blocks or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agent.errors import ToolFailure
from agent.protocols import Session
from agent.tools.base import Parameters, fields
from agent.tools.blocks import FORM, Block, Split, parse
from agent.tools.nearest import explain
from agent.tools.read_file import read
from agent.tools.text import inside, shown
from agent.tools.write_file import save


class SearchReplaceParameters(Parameters):
    file_path: str = Field(description="the file to change, relative to the workspace or absolute")
    content: str = Field(description=f"one or more blocks of this form:\n{FORM}")


@dataclass(frozen=True)
class SearchReplace:
    max_bytes: int = 100_000

    name: ClassVar[str] = "search_replace"
    description: ClassVar[str] = (
        "Change parts of a file. Each block names text that is in the file now, exactly, blanks and indentation "
        "included, and the text to put in its place. Read the file first. Take enough lines to make the place unique: "
        "of several places only the first is changed. Blocks apply in order, and if one can't be applied none is."
    )
    parameters: ClassVar[type[Parameters]] = SearchReplaceParameters
    mutates: ClassVar[bool] = True

    def run(self, session: Session, params: SearchReplaceParameters) -> str:
        path = inside(params.file_path, writing=True)
        if len(params.content.encode()) > self.max_bytes:
            raise ToolFailure(f"content is larger than {self.max_bytes} bytes; send fewer blocks at once")
        blocks = parse(params.content)
        # surrogateescape carries bytes that are not UTF-8 through an edit unchanged.
        text = read(session, path).decode(errors="surrogateescape")
        crlf = "\r\n" in text and text.count("\n") == text.count("\r\n")
        text = text.replace("\r\n", "\n") if crlf else text
        changed, warnings = 0, []
        for number, block in enumerate(blocks, start=1):
            text, lines, warning = _apply(block, text, f"block {number} of {len(blocks)}")
            changed += lines
            warnings += [warning] if warning else []
        text = text.replace("\n", "\r\n") if crlf else text
        save(session, path, text.encode(errors="surrogateescape"))
        return fields(
            file=shown(path), blocks_applied=len(blocks), lines_changed=changed, warnings="; ".join(warnings) or "none"
        )


def _apply(block: Block, text: str, label: str) -> tuple[str, int, str | None]:
    """The text with the block applied, how many lines it concerned, and a warning."""
    for split in _readings(block, text):
        places, whole = _places(split.search, text)
        if not places:
            continue
        if split.search == split.replace:
            raise ToolFailure(f"{label}: SEARCH and REPLACE are the same; nothing would change. Nothing was written")
        start = places[0]
        end = start + len(split.search)
        if split.deletes and whole and text[end : end + 1] == "\n":
            end += 1
        warning = f"{label}: SEARCH is there {len(places)} times; only the first was changed" if places[1:] else None
        return text[:start] + split.replace + text[end:], _size(split), warning
    likeliest = block.splits[0]
    raise ToolFailure(
        f"{label}: the SEARCH text is not in the file, so nothing was written: "
        + explain(likeliest.search, text, likeliest.replace)
    )


def _readings(block: Block, text: str) -> list[Split]:
    """The block's readings, those that ask for most of the file first: a longer text is not there by accident. For a
    file of mixed line ends also each with CRLF."""
    splits = sorted(block.splits, key=lambda split: len(split.search), reverse=True)
    if "\r\n" not in text:
        return splits
    crlf = [Split(s.search.replace("\n", "\r\n"), s.replace.replace("\n", "\r\n"), s.deletes) for s in splits]
    return [*splits, *crlf]


def _places(search: str, text: str) -> tuple[list[int], bool]:
    """Where `search` stands, and whether as whole lines. A place inside a longer line counts only where there is
    none of whole lines: `x = 1` must not change `max = 10` when there is a line `x = 1` further down."""
    found = []
    start = text.find(search)
    while start >= 0:
        found.append(start)
        start = text.find(search, start + max(len(search), 1))
    whole = [start for start in found if _is_whole(text, start, start + len(search))]
    return (whole, True) if whole else (found, False)


def _is_whole(text: str, start: int, end: int) -> bool:
    starts = start == 0 or text[start - 1] == "\n"
    return starts and (end == len(text) or text.startswith(("\n", "\r\n"), end))


def _size(split: Split) -> int:
    """Lines in the larger part, without those that both parts begin and end with."""
    old, new = split.search.split("\n"), [] if split.deletes else split.replace.split("\n")
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return max(len(old), len(new))
