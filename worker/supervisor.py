"""Child processes of `up` and `demo`: started, restarted when they die, stopped together, never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from worker.errors import Permanent
from worker.exits import Exit

log = logging.getLogger(__name__)

PARENT = "DEVSTRAL_FIX_PARENT_PID"
PR_SET_PDEATHSIG = 1
LIFE = 60.0  #: seconds after which a child counts as one that works
REFUSALS = 5  #: ends in a row, each before LIFE, by which a child says that it can't run; with pauses some 15 seconds
READY_SECONDS = 60.0


class NotStarted(Permanent):
    """The children could not be started; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A child that was given up: it ended again and again for its settings, or for what it needs and can't have."""

    child: str
    exit: Exit

    def __str__(self) -> str:
        why = "its settings can't be used" if self.exit is Exit.USAGE else "what it needs is missing or refuses"
        return f"{self.child} ended {REFUSALS} times at once with exit status {self.exit.value} ({why}): see its log"


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
    restarts: int = field(default=0, init=False)
    refusals: int = field(default=0, init=False)


class Supervisor:
    """Use as a context manager. A child that dies is started again after a pause that grows to half a minute; one that
    keeps saying that it can't run is given up: `refused` holds it, and `gave_up` is called."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        env: Mapping[str, str],
        cwd: Path,
        grace: float = 30.0,
        gave_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.children = list(children)
        self.refused: Refusal | None = None
        self._gave_up = gave_up
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
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", *child.arguments],
                env={**self._env, **child.env},
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
                self._revive(child)
        self._end()

    def _revive(self, child: Child) -> None:
        assert child.process is not None
        code = child.process.poll()
        pause = min(30.0, 0.5 * 2.0**child.restarts)
        if code is None:
            if time.monotonic() - child.started > LIFE:
                child.restarts = child.refusals = 0
        elif child.refusals >= REFUSALS:
            return
        elif time.monotonic() - child.started >= pause:
            child.restarts += 1
            child.refusals = child.refusals + 1 if code in (Exit.USAGE, Exit.UNAVAILABLE) else 0
            if child.refusals >= REFUSALS:
                self.refused = Refusal(child=child.name, exit=Exit(code))
                log.error("child_given_up", extra={"child": child.name, "exit_status": code})
                self._gave_up()
                return
            log.warning("child_restarted", extra={"child": child.name, "exit_status": code})
            self._start(child)

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
