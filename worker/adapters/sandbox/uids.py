"""A uid of its own per sandbox when the service runs as root, so that two sandboxes can't reach each other."""

from __future__ import annotations

import fcntl
import os
import random
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SandboxUnavailable

_FIRST = 0x70000000  # above what containers and subordinate-id files hand out
_COUNT = 1 << 20


@dataclass
class Lease:
    """`uid` (and gid) is ours until `release`; the kernel releases it when the process dies."""

    uid: int
    path: Path
    fd: int

    def release(self) -> None:
        if self.fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self.fd)
            self.fd = -1


def span(uid_map: str) -> range:
    """The uids to choose from, of those that a /proc/self/uid_map makes usable here (a container may map few)."""
    entries = [(int(inside), int(count)) for inside, _, count in (line.split() for line in uid_map.splitlines())]
    if any(start <= _FIRST and start + count >= _FIRST + _COUNT for start, count in entries):
        return range(_FIRST, _FIRST + _COUNT)
    start, count = max(entries, key=lambda entry: entry[1], default=(0, 0))
    # The upper half, below the usual "nobody" and away from people's and daemons' uids.
    usable = range(max(start + count // 2, 10_000), min(start + count, 65_534))
    if not usable:
        raise SandboxUnavailable("no spare uids are mapped here: a sandbox can't have a uid of its own")
    return usable


def shared(usable: range) -> int:
    """The uid that owns bases, and so runs every sandbox on one (docs/decisions: why that is no bridge)."""
    return usable[0]


def take(folder: Path, usable: range) -> Lease:
    """A uid that no other sandbox below `folder` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    choose = random.SystemRandom()
    usable = usable[1:]  # the first is `shared`
    for _ in range(1000):
        uid = choose.choice(usable)
        path = folder / str(uid)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if os.fstat(fd).st_nlink:
            return Lease(uid, path, fd)
        os.close(fd)  # its last holder removed the file after we opened it
    raise SandboxUnavailable("every uid for sandboxes is taken")
