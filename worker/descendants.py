"""Ends what this process started, and what that started, before it ends itself: an engine's processes would keep their
GPU memory."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
SECONDS = 5.0  # a process that its driver holds longer is left to it


def children() -> list[int]:
    """Processes whose parent this one is, ended ones that nobody waited for too."""
    found, me = [], os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # The program's name stands in brackets and may hold anything, brackets too.
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == me:
                found.append(int(entry.name))
    return found


def end() -> None:
    """Kill them all. Those that lose their parent by it become children of this process, so none is missed."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    until = time.monotonic() + SECONDS
    while (left := children()) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):  # somebody else here waits for it
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
