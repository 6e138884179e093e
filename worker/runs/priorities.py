"""Who goes first: a person who waits before a backlog that nobody watches."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Of a run, for its whole life: a retry keeps it. Gaps leave room for more."""

    BATCH = 0  #: one of many, asked for at once
    INTERACTIVE = 10  #: a label or a command: somebody looks for the answer
