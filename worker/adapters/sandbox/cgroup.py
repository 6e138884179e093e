"""Control groups, v1 and v2: limits for what a session runs, a sure end for it, and what the limits were hit by.

Limits of v2 were tried once, by hand, in a machine with v2 alone; the tests run where the controllers are v1's.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from worker.errors import SandboxUnavailable

NAME = "devstral-fix"
CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD = 100_000  # microseconds
_DEATH_SECONDS = 10.0
# Joins the groups whose files are named before `--` and becomes what comes after it: nothing runs outside of them.
JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@"'


@dataclass(frozen=True)
class Group:
    """One control group: a directory per v1 hierarchy, or one of v2. `ender` names the one whose members are killed:
    `unified` (cgroup.kill) or, where only v1 is mounted, `freezer`. `above` is a group that goes with the last one in
    it."""

    version: int
    folders: Mapping[str, Path]
    ender: str
    above: Group | None = None

    def child(self, name: str, *, share_cpu: bool = False) -> Group:
        """A new group below this one. v2 hands controllers down to it. With `share_cpu`, v1 leaves CPU time to this
        group: joining a child costs a slice of it."""
        folders = {key: folder / name for key, folder in self.folders.items()}
        if share_cpu and self.version == 1:
            folders["cpu"] = self.folders["cpu"]
        for folder in dict.fromkeys(folders.values()):
            if folder not in self.folders.values():
                _make(folder)
        if self.version == 2:  # after: this one can't be taken away any more
            write(self.folders["memory"] / "cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))
        return Group(self.version, folders, self.ender)

    def limit_memory(self, size: int) -> None:
        """Bytes, swap included."""
        folder = self.folders["memory"]
        if self.version == 2:
            write(folder / "memory.max", str(size))
            _optional(folder / "memory.swap.max", "0")
            return
        # Memory may never be above memory + swap, so the order depends on whether the limit rises.
        swap = folder / "memory.memsw.limit_in_bytes"
        _optional(swap, str(size))
        write(folder / "memory.limit_in_bytes", str(size))
        _optional(swap, str(size))

    def limit_processes(self, count: int) -> None:
        write(self.folders["pids"] / "pids.max", str(count))

    def limit_cpus(self, cpus: float) -> None:
        quota = max(1000, int(cpus * _PERIOD))
        if self.version == 2:
            write(self.folders["cpu"] / "cpu.max", f"{quota} {_PERIOD}")
            return
        write(self.folders["cpu"] / "cpu.cfs_period_us", str(_PERIOD))
        write(self.folders["cpu"] / "cpu.cfs_quota_us", str(quota))

    @property
    def procs(self) -> list[Path]:
        """The files to which a process of one thread writes `0` to join. v1 moves a thread (`tasks`) without waiting
        for every processor of the machine."""
        return [
            folder / ("cgroup.procs" if self.version == 2 or key == "unified" else "tasks")
            for folder, key in {folder: key for key, folder in self.folders.items()}.items()
        ]

    def members(self) -> set[int]:
        return {int(line) for line in (self.folders[self.ender] / "cgroup.procs").read_text().split()}

    @property
    def oom_kills(self) -> int:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _field(self.folders["memory"] / name, "oom_kill")

    @property
    def refused_forks(self) -> int:
        return _field(self.folders["pids"] / "pids.events", "max")

    def kill(self) -> None:
        """End every member, and return when there is none. SandboxUnavailable when that takes ten seconds."""
        deadline = time.monotonic() + _DEATH_SECONDS
        pause = 0.0002
        while self.members():
            self._kill_once()
            if time.monotonic() > deadline:
                raise SandboxUnavailable("a sandbox could not be killed")
            time.sleep(pause)  # the kernel tells of emptiness by an event in v2 only
            pause = min(pause * 2, 0.01)

    def _kill_once(self) -> None:
        folder = self.folders[self.ender]
        if self.ender == "unified":
            write(folder / "cgroup.kill", "1")
            return
        # Frozen, nothing can fork away from the list or leave its pid to somebody else.
        write(folder / "freezer.state", "FROZEN")
        try:
            for pid in self.members():
                with suppress(ProcessLookupError):
                    fd = os.pidfd_open(pid)
                    try:
                        if pid in self.members():
                            signal.pidfd_send_signal(fd, signal.SIGKILL)
                    finally:
                        os.close(fd)
        finally:
            write(folder / "freezer.state", "THAWED")

    def remove(self) -> None:
        """Kill what is left in it and below, and take the directories away."""
        if not self.folders[self.ender].is_dir():
            return
        for name in [path.name for path in self.folders[self.ender].iterdir() if path.is_dir()]:
            Group(self.version, {key: folder / name for key, folder in self.folders.items()}, self.ender).remove()
        self.kill()
        for folder in dict.fromkeys(self.folders.values()):
            _remove(folder)
        for folder in dict.fromkeys(self.above.folders.values()) if self.above is not None else ():
            with suppress(OSError):  # in use: the kernel removes empty ones only
                folder.rmdir()


class Groups:
    """Where sessions' groups are made. Each is named after the process that made it, so that those of a dead one can
    be told from those in use. `ours`: `base` is made when it is needed and goes with the last group in it, whichever
    process that belongs to; else somebody handed it to us."""

    def __init__(self, base: Group, *, ours: bool) -> None:
        self._base = base
        self._ours = ours

    @property
    def base(self) -> Group:
        return self._base

    def make(self) -> Group:
        made = self._base.child(f"{_owner(os.getpid())}-{secrets.token_hex(6)}")
        return replace(made, above=self._base) if self._ours else made

    def sweep(self) -> None:
        """Remove the groups of processes that died."""
        ender = self._base.folders[self._base.ender]
        for name in [path.name for path in ender.glob("*") if path.is_dir()]:
            pid = name.split("-")[0]
            if pid.isdigit() and name.count("-") == 2 and not name.startswith(f"{_owner(int(pid))}-"):
                folders = {key: folder / name for key, folder in self._base.folders.items()}
                with suppress(OSError):
                    Group(self._base.version, folders, self._base.ender).remove()


def _owner(pid: int) -> str:
    """`PID-STARTED`; another time, or none, tells that the number belongs to somebody else now."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        started = "gone"
    return f"{pid}-{started}"


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def write(path: Path, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _optional(path: Path, value: str) -> None:
    """Swap may not be accounted for."""
    with suppress(OSError):
        write(path, value)


def _make(folder: Path) -> None:
    """Also when somebody takes the group above away meanwhile, which was empty: once this one is in it, nobody can."""
    while True:
        try:
            folder.mkdir()
        except FileNotFoundError:
            with suppress(FileExistsError):  # `exist_ok` looks again, and may find it gone
                folder.parent.mkdir()
        else:
            return


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _DEATH_SECONDS
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # the last member has been counted out, but not yet taken apart
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return
