"""Sessions' directories below a sandbox's root: made, locked while in use, and swept when their process died."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from worker.adapters.sandbox import uids
from worker.adapters.sandbox.workspace import remove


class Homes:
    """`root` is shared by the processes of a service."""

    def __init__(self, root: Path, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        for name in ("sessions", "uids"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name).chmod(0o711)

    def make(self, stack: ExitStack) -> Path:
        """A session's directory, marked as in use by a lock that dies with us. It goes with `stack`."""
        with self._making():
            home = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._root / "sessions"))
            fd = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        stack.callback(os.close, fd)
        stack.callback(remove, home)
        home.chmod(0o711)
        return home

    def uid(self, stack: ExitStack) -> int:
        """A uid that no other session has until `stack` is closed."""
        lease = uids.take(self._root / "uids", usable())
        stack.callback(lease.release)
        return lease.uid

    def sweep(self, before: Callable[[set[Path]], None] = lambda _: None) -> None:
        """Remove the sessions of processes that died, once `before` has ended what may still use them."""
        with self._making():
            dead = set()
            for home in (self._root / "sessions").iterdir():
                with suppress(OSError), (home / "lock").open() as lock:  # not there, or held: in use
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead.add(home)
            before(dead)
            for home in dead:
                remove(home)

    @contextmanager
    def _making(self) -> Iterator[None]:
        """Between a session's directory and its lock nobody sweeps."""
        with (self._root / "making").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def usable() -> range:
    """The uids that sandboxes may have here."""
    return uids.span(Path("/proc/self/uid_map").read_text())
