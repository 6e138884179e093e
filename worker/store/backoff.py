"""How long the sweep waits before it announces again what nobody took: 30 s, doubling to 10 minutes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, text

SHORTEST, LONGEST = 30, 600  # seconds
_DOUBLINGS = (LONGEST // SHORTEST).bit_length()


def next_announcement(announced: Any) -> ColumnElement[datetime]:
    """When a row is due again that was announced `announced` times before this one, in vain."""
    seconds = func.least(LONGEST, SHORTEST * func.power(2, func.least(announced, _DOUBLINGS)))
    return func.now() + text("interval '1 s'") * seconds
