"""The folders of open ways: each held by a file lock, so that those of a process that died can be told and removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "e-"


@contextmanager
def held(root: Path) -> Iterator[Path]:
    """A new folder below `root` that nobody removes while the context is open; gone afterwards. OSError."""
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o711)
    with _making(root):
        _remove_stale(root)
        # A name nobody guesses: whoever can name the socket can use it.
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        folder.chmod(0o711)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(root: Path) -> None:
    """Remove what no living process holds; a folder that can't be removed stays for the next time."""
    if root.is_dir():
        with suppress(OSError), _making(root):
            _remove_stale(root)


def _remove_stale(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
        if not (folder / "lock").exists():  # its maker died before it was locked, or it was half removed
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _making(root: Path) -> Iterator[None]:
    """Between a folder and its lock nobody sweeps."""
    with (root / "making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
