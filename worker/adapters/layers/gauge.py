"""How much a folder that is being filled may hold by now: guessed at once from what its file system lost, and counted
now and then. No quota of the kernel's is needed, and none is to be had without a file system made for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from worker.adapters.layers.content import size

_SECONDS = 2.0  # between two counts
_ENTRIES = 2000  # counted between two guesses


class _Guessed(Exception):
    """Counting was broken off: too much is there."""


class Gauge:
    """Of one folder, from when it is empty. `largest` is in bytes, as `size` counts them; with less than `reserve`
    bytes left on the file system, or a thousandth of its inodes, any folder is too large."""

    def __init__(self, folder: Path, largest: int, reserve: int) -> None:
        self._folder = folder
        self._largest = largest
        self._reserve = reserve
        self._counted = 0
        self._then = os.statvfs(folder)
        self._next = time.monotonic() + _SECONDS

    def exceeded(self) -> bool:
        """Whether it holds too much, or may: what others write on the file system between two counts is taken for
        the folder's. Takes microseconds, but for a count every few seconds, which guesses on while it counts."""
        if self._guess():
            return True
        if time.monotonic() < self._next:
            return False
        started, then = time.monotonic(), os.statvfs(self._folder)
        try:
            self._counted = size(self._folder, each=self._tick)
        except _Guessed:
            return True
        self._then = then
        now = time.monotonic()
        self._next = now + max(_SECONDS, 3 * (now - started))
        return self._counted > self._largest

    def _tick(self, entries: int) -> None:
        if entries % _ENTRIES == 0 and self._guess():
            raise _Guessed

    def _guess(self) -> bool:
        now, then = os.statvfs(self._folder), self._then
        if now.f_bavail * now.f_frsize < self._reserve or now.f_favail < now.f_files // 1000:
            return True
        lost = max((then.f_bfree - now.f_bfree) * now.f_frsize, (then.f_ffree - now.f_ffree) * 4096)
        return self._counted + lost > self._largest
