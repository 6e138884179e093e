"""This process's own clock: for spans within the process, and never for a moment that another one reads."""

from __future__ import annotations

import time


def own_clock() -> float:
    """Seconds that only ever grow, whatever is done to the wall clock, and that count while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
