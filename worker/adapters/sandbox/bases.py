"""Checked-out trees that sessions share read-only below their overlays: made once, kept while used, bounded.

A base is `KEY/workspace` (files and the agent's `.git`) and `KEY/gitdir` (trusted, with the index of the files). It is
written before anything hostile runs, in a place of its own, and renamed when it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.adapters.sandbox.workspace import remove


@dataclass
class Base:
    """Ours until `release`: nobody evicts it."""

    home: Path
    lock: int

    @property
    def workspace(self) -> Path:
        return self.home / "workspace"

    @property
    def git_dir(self) -> Path:
        return self.home / "gitdir"

    def release(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


class Bases:
    """Below `root`, at most `count` bases and `size` bytes of files beyond those in use; the least recently used go
    first. Processes may share it."""

    def __init__(self, root: Path, *, count: int = 16, size: int = 8 << 30) -> None:
        self._root = root
        self._count = count
        self._size = size
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)

    def take(self, parts: Sequence[str], fill: Callable[[Path], None]) -> Base:
        """The base that `parts` identify. `fill` writes it into an empty directory where there is none yet."""
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
        home = self._root / key
        while True:
            lock = os.open(self._root / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if os.fstat(lock).st_nlink and home.is_dir():
                    os.utime(lock)
                    return Base(home, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.fstat(lock).st_nlink:  # evicted while we waited
                    os.close(lock)
                    continue
                if not home.is_dir():
                    self._make(home, lock, fill)
                fcntl.flock(lock, fcntl.LOCK_SH)  # not one step: it may be evicted between
                if os.fstat(lock).st_nlink and home.is_dir():
                    self._evict()
                    return Base(home, lock)
                os.close(lock)
            except BaseException:
                with suppress(OSError):
                    os.close(lock)
                raise

    def _make(self, home: Path, lock: int, fill: Callable[[Path], None]) -> None:
        making = Path(tempfile.mkdtemp(prefix="making-", dir=self._root))
        try:
            with (making / "alive").open("w") as alive:  # dies with us; see _sweep
                fcntl.flock(alive, fcntl.LOCK_EX)
                making.chmod(0o755)
                fill(making)
                os.pwrite(lock, str(_size(making)).encode(), 0)
                making.rename(home)
        except BaseException:
            remove(making)
            raise

    def _evict(self) -> None:
        known = []
        for path in self._root.glob("*.lock"):
            with suppress(OSError):
                known.append((path.stat().st_mtime, path, int(path.read_text() or 0)))
        total = 0
        for number, (_, path, size) in enumerate(sorted(known, reverse=True)):
            total += size
            if number >= self._count or total > self._size:
                with _unused(path) as free:
                    if free:
                        remove(path.with_suffix(""))
                        path.unlink()

    def sweep(self) -> None:
        """Remove what a process that died was making."""
        for making in self._root.glob("making-*"):
            with suppress(OSError), (making / "alive").open() as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(making)


@contextmanager
def _unused(lock: Path) -> Iterator[bool]:
    with lock.open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _size(folder: Path) -> int:
    return sum(Path(where, name).lstat().st_blocks * 512 for where, _, names in os.walk(folder) for name in names)
