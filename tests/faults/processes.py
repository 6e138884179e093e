"""Processes of the service as a user starts them, each killed, frozen or woken at will; none is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)


patience = 1.0
"""Every limit of a wait is multiplied by this; `--patience` raises it on a machine with other work to do."""


def be_patient(factor: float) -> None:
    global patience  # noqa: PLW0603 - one value per run of the suite, set at its start
    patience = factor


class Short(AssertionError):
    """Something fell short of what the row demands."""


def adopt_orphans() -> None:
    """What a killed worker leaves behind becomes a child of ours, so that it can be found at the end."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One `devstral-fix` command. Its log is read from where this start of it began."""

    def __init__(self, name: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name = name
        self._arguments = list(arguments)
        self.env = dict(env)
        self._cwd = cwd
        self._log = log
        self._from = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._from = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", *self._arguments],
                env=self.env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call; PDEATHSIG outlives a stop, too
            )

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> float:
        """kill -9; returns when it was done (time.time())."""
        self.send(signal.SIGKILL)
        at = time.time()
        self.wait(10)
        return at

    def wait(self, seconds: float) -> int:
        assert self._process is not None
        try:
            return self._process.wait(seconds * patience)
        except subprocess.TimeoutExpired:
            raise Short(f"{self.name} did not end within {seconds * patience:g} s") from None

    def stop(self, seconds: float = 20) -> None:
        if not self.alive:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self.wait(seconds)
        except Short:
            self.kill()

    def lines(self) -> list[dict[str, Any]]:
        """What it logged since it was started, oldest first; lines that are no JSON come as `event`."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as log:
            log.seek(self._from)
            return [_line(raw) for raw in log.read().decode("utf-8", "replace").splitlines()]
        return []

    def logged(self, event: str, **fields: object) -> dict[str, Any] | None:
        """The first line with this event and these fields."""
        for line in self.lines():
            if line.get("event") == event and all(str(line.get(k)) == str(v) for k, v in fields.items()):
                return line
        return None


def _line(raw: str) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"event": raw}


def until(what: str, seconds: float, condition: Callable[[], Any]) -> Any:
    """The first true value of `condition`; other processes can only be asked, so it is asked every 50 ms."""
    deadline = time.monotonic() + seconds * patience
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise Short(f"not within {seconds * patience:g} s: {what}")
        time.sleep(0.05)  # other processes: asking is the only way to know


def running(words: str) -> list[int]:
    """Processes of this machine whose command line is `words`: no shell or sandbox around them."""
    return [pid for pid, line in _commands() if line.strip() == words]


def _commands() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


def descendants(pid: int | None = None) -> list[int]:
    """Every living process below this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = [], [pid or os.getpid()]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def end_everything(seconds: float = 10) -> list[str]:
    """Commands of the processes that were still there `seconds` after everything was told to end; they are killed."""
    deadline = time.monotonic() + seconds
    while (left := descendants()) and time.monotonic() < deadline:
        reap()
        time.sleep(0.05)  # other processes: asking is the only way to know
    names = []
    for pid in left:
        with contextlib.suppress(OSError):
            names.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            os.kill(pid, signal.SIGKILL)
    reap()
    return names


def reap() -> None:
    """Collect adopted children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
