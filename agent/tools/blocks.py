"""SEARCH/REPLACE blocks as a model writes them, parsed without knowing the file they are for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.errors import ToolFailure

FORM = "<<<<<<< SEARCH\n(lines as they are in the file)\n=======\n(lines to put in their place)\n>>>>>>> REPLACE"

_OPEN = re.compile(r"^\s*(<{5,})\s*SEARCH\s*$")
_DIVIDE = re.compile(r"^(={5,})\s*$")
_CLOSE = re.compile(r"^\s*>{5,}\s*REPLACE\s*$")


@dataclass(frozen=True)
class Split:
    """One way to read a block. `deletes`: nothing at all stood in the REPLACE part, so the lines' end goes too."""

    search: str
    replace: str
    deletes: bool


@dataclass(frozen=True)
class Block:
    """A block with every way to read it, likeliest first: text may itself hold a line of `=` signs (a heading's
    underline), and only the file can tell which one divides."""

    splits: tuple[Split, ...]


def parse(content: str) -> tuple[Block, ...]:
    """The blocks of `content`; text around them (a code fence, a file name) is ignored."""
    lines = content.replace("\r\n", "\n").split("\n")
    blocks: list[Block] = []
    start: int | None = None
    for index, line in enumerate(lines):
        if start is None:
            start = index if _OPEN.match(line) else None
        elif _CLOSE.match(line):
            blocks.append(_block(lines[start], lines[start + 1 : index], len(blocks) + 1))
            start = None
        elif _OPEN.match(line):
            raise ToolFailure(f"block {len(blocks) + 1} has no >>>>>>> REPLACE line before the next block starts")
    if start is not None:
        raise ToolFailure(f"block {len(blocks) + 1} has no >>>>>>> REPLACE line at its end; the form is:\n{FORM}")
    if not blocks:
        raise ToolFailure(f"content holds no SEARCH/REPLACE block; the form is:\n{FORM}")
    return tuple(blocks)


def _block(opening: str, body: list[str], number: int) -> Block:
    marks = opening.strip().count("<")
    dividers = [index for index, line in enumerate(body) if _DIVIDE.match(line)]
    if not dividers:
        raise ToolFailure(f"block {number} has no ======= line between its two parts; the form is:\n{FORM}")
    dividers.sort(key=lambda index: body[index].rstrip().count("=") != marks)
    splits = tuple(
        Split(
            search="\n".join(body[:index]),
            replace="\n".join(body[index + 1 :]),
            deletes=index + 1 == len(body),
        )
        for index in dividers
    )
    if not any(split.search.strip() for split in splits):
        raise ToolFailure(
            f"block {number} has an empty SEARCH part; to insert, search for a line beside the place and repeat it "
            "in REPLACE; to create a file use write_file"
        )
    return Block(tuple(split for split in splits if split.search.strip()))
