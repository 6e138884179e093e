"""Child processes of `up` and `demo`: started, restarted when they die, stopped together, never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from worker.errors import Permanent
from worker.exits import Exit
from worker.readiness import VARIABLE, Listener

log = logging.getLogger(__name__)

PARENT = "DEVSTRAL_FIX_PARENT_PID"
PR_SET_PDEATHSIG = 1
LIFE = 60.0  #: seconds after which a child that works is forgiven its earlier ends
STARTS = 5  #: starts in a row that failed, however long each took; the pauses between them are some 8 seconds in all
READY_SECONDS = 60.0


class NotStarted(Permanent):
    """The children could not be started; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A child that was given up: its settings can't be used, or it did not start however often it was tried."""

    child: str
    exit: Exit
    starts: int
    why: str | None  #: in the child's own words

    def __str__(self) -> str:
        if self.exit is Exit.USAGE:
            return f"{self.child} can't start: {self.why or 'its settings can not be used, see its log'}"
        why = self.why or f"exit status {self.exit.value}, see its log"
        return f"{self.child} was given up after {self.starts} starts that failed in a row: {why}"


def die_with_parent() -> None:
    """In a supervised child: get SIGTERM when the parent's supervising thread ends, however it ends."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the call above
        raise SystemExit(1)


@dataclass
class Child:
    """One program of ours: `arguments` of the command line, and where its log goes (None: standard error)."""

    name: str
    arguments: Sequence[str]
    log_file: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)  #: of its own, besides what all children get
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    started: float = field(default=0.0, init=False)
    ended: float | None = field(default=None, init=False)
    restarts: int = field(default=0, init=False)
    failed_starts: int = field(default=0, init=False)  #: in a row; a start is good once the child says that it works
    over: bool = field(default=False, init=False)  #: it is not started again
    heard: Listener | None = field(default=None, init=False)


class Supervisor:
    """Use as a context manager. A child that dies is started again after a pause that grows to half a minute. One whose
    settings are wrong, or that failed to start several times in a row, is given up: `refused` holds it, and `gave_up`
    is called. `wanted` says whether one that ended well is to be started again, by its process id."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        env: Mapping[str, str],
        cwd: Path,
        grace: float = 30.0,
        gave_up: Callable[[], None] = lambda: None,
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.children = list(children)
        self.refused: Refusal | None = None
        self._gave_up = gave_up
        self._wanted = wanted
        self._failure: Exception | None = None
        self._env = {**env, PARENT: str(os.getpid())}
        self._cwd = cwd
        self._grace = grace
        self._stop = threading.Event()
        self._ready = threading.Event()
        # Children get a signal when the *thread* that started them ends, so one thread starts and outlives them all.
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        started = self._ready.wait(READY_SECONDS)
        if not started or self._failure is not None:
            self._stop.set()
            why = self._failure or f"they were not there within {READY_SECONDS:.0f} s"
            raise NotStarted(f"the processes can't be started: {why}") from self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def broken(self) -> list[str]:
        """Children that died three times without a minute of life in between."""
        return [child.name for child in self.children if child.restarts >= 3]

    def alive(self) -> dict[str, bool]:
        return {c.name: c.process is not None and c.process.poll() is None for c in self.children}

    def _start(self, child: Child) -> None:
        output: IO[bytes] | None = None
        if child.log_file is not None:
            child.log_file.parent.mkdir(parents=True, exist_ok=True)
            output = child.log_file.open("ab")
        if child.heard is None:
            child.heard = Listener(self._sockets / child.name)
        child.heard.forget()
        child.ended = None
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", *child.arguments],
                env={**self._env, **child.env, VARIABLE: str(child.heard.path)},
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops them in order
            )
        finally:
            if output is not None:
                output.close()
        child.started = time.monotonic()

    def _run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="devstral-fix-up-") as sockets:
            self._sockets = Path(sockets)
            try:
                self._supervise()
            finally:
                for child in self.children:
                    if child.heard is not None:
                        child.heard.close()
                        child.heard = None

    def _supervise(self) -> None:
        try:
            for child in self.children:
                self._start(child)
        except OSError as error:
            self._failure = error
            self._end()
            self._ready.set()
            return
        self._ready.set()
        while not self._stop.wait(0.5):
            for child in self.children:
                if not child.over:
                    self._look(child)
        self._end()

    def _look(self, child: Child) -> None:
        assert child.process is not None
        assert child.heard is not None
        code, now = child.process.poll(), time.monotonic()
        child.heard.hear()
        if child.heard.ready:
            child.failed_starts = 0
        if code is None:
            if child.heard.ready and now - child.started > LIFE:
                child.restarts = 0
            return
        if child.ended is None:
            child.ended = now
            self._judge(child, child.process.pid, code)
        # One that worked was no hurry to start; one that did not shall not be tried without a pause.
        since = child.started if child.heard.ready else child.ended
        if not child.over and now - since >= min(30.0, 0.5 * 2.0**child.restarts):
            child.restarts += 1
            log.warning("child_restarted", extra={"child": child.name, "exit_status": code, "why": child.heard.why})
            self._start(child)

    def _judge(self, child: Child, pid: int, code: int) -> None:
        """It has ended: is it started again?"""
        assert child.heard is not None
        if code == Exit.DONE and not self._wanted(pid):
            log.info("child_stays_ended", extra={"child": child.name})
            child.over = True
        if child.over or child.heard.ready:
            return
        child.failed_starts += 1
        if code == Exit.USAGE or child.failed_starts >= STARTS:
            child.over = True
            known = Exit(code) if code in list(Exit) and code != Exit.DONE else Exit.FAILED
            self.refused = Refusal(child=child.name, exit=known, starts=child.failed_starts, why=child.heard.why)
            log.error("child_given_up", extra={"child": child.name, "exit_status": code, "why": child.heard.why})
            self._gave_up()

    def _end(self) -> None:
        running = [c.process for c in self.children if c.process is not None and c.process.poll() is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + self._grace
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
