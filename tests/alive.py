"""Processes of the host by a marker in their command line: found, waited for, ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def alive(marker: str) -> list[int]:
    """Our own test apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in command:
                found.append(int(entry.name))
    return found


def end(marker: str) -> int:
    """Kill them; how many there were."""
    found = alive(marker)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)  # other processes: /proc tells no one that they ended
    return False


def gone_after(marker: str, since: float) -> float:
    """Seconds from `since` until none was left. AssertionError when there are still some after ten more."""
    assert wait_for(lambda: not alive(marker), 10)
    return time.monotonic() - since
