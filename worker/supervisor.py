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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

log = logging.getLogger(__name__)

PARENT = "DEVSTRAL_FIX_PARENT_PID"
PR_SET_PDEATHSIG = 1


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


class Supervisor:
    """Use as a context manager. A child that dies is started again after a pause that grows to half a minute."""

    def __init__(self, children: Sequence[Child], *, env: Mapping[str, str], cwd: Path, grace: float = 30.0) -> None:
        self.children = list(children)
        self._env = {**env, PARENT: str(os.getpid())}
        self._cwd = cwd
        self._grace = grace
        self._stop = threading.Event()
        self._ready = threading.Event()
        # Children get a signal when the *thread* that started them ends, so one thread starts and outlives them all.
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
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
        for child in self.children:
            self._start(child)
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
            if time.monotonic() - child.started > 60:
                child.restarts = 0
        elif time.monotonic() - child.started >= pause:
            child.restarts += 1
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
