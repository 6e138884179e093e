"""What doing a recorded step again led to."""

from __future__ import annotations

from dataclasses import dataclass


class Stopped(Exception):
    """The replay can't go on without doing something else than was recorded; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """`text` is the result, None where there is nothing to compare; `compared` is the part of the recorded result that
    it answers to, where it is not all of it. `failed`: our own limit ended it, and which. `wrote` is the file it was to
    change, `shows` the one that its text is of; `moved` says that lines are elsewhere in this base, and `unsupported`
    why it was not done at all."""

    text: str | None = None
    compared: str | None = None
    exit_code: int | None = None
    refused: bool = False
    failed: str = ""
    note: str = ""
    moved: str = ""
    wrote: str | None = None
    shows: str | None = None
    unsupported: str = ""
