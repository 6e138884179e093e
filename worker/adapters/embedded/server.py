"""Starting, sharing and stopping one embedded server; what kind of server it is, its subclass says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from worker.adapters.embedded import keeper, locks, place
from worker.errors import SettingsError, Transient

START_SECONDS = 60.0
_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Command:
    """What the keeper runs: no secret may stand in `argv`, which every user of the machine can read."""

    argv: list[str]
    stdin: str = ""
    stop_signal: int = signal.SIGTERM
    scratch: str = ""
    """A directory that the keeper deletes when the server has ended."""


class Server(ABC):
    """One server on one directory. Several objects, also in several processes, may use it at the same time: the
    first starts it, and it stops when the last one stops or dies. Data stays in the directory.

    `start` may be called again after a crash of the server. Raises `SettingsError` where a person has to act,
    `Transient` where another try may work.
    """

    name: str

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._users: int | None = None

    @abstractmethod
    def _prepare(self, base: Path) -> Command:
        """Make what must exist before a start, with files of the server under `base`. Nothing runs on them now."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether the running server answers. False means not yet; anything else raises."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it listens, with its password: never log it."""

    def start(self) -> str:
        """Start it, or attach to it where it runs already; returns its `url` once it answers."""
        self.data_dir = place.private_directory(self.data_dir.absolute())
        try:
            with locks.exclusive(self._lock("start")):
                if self._users is None:
                    self._users = locks.hold(self._lock("users"), shared=True)  # waits for one that is stopping
                try:
                    self._start()
                except BaseException:
                    self._let_go()
                    raise
        except OSError as error:
            raise SettingsError(f"can't start {self.name} in {self.data_dir}: {error}") from error
        return self.url

    def stop(self) -> None:
        """Let go of it; when nobody else uses it, it has stopped and written everything when this returns."""
        if self._users is None:
            return
        with locks.exclusive(self._lock("start")):
            self._let_go()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _lock(self, name: str) -> Path:
        return self.data_dir / f"{name}.lock"

    @property
    def _log(self) -> Path:
        return self.data_dir / "log"

    def _start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        spawned = False
        while True:
            keeper_lock = locks.hold(self._lock("keeper"), wait=False)
            if keeper_lock is not None:
                try:
                    if spawned:
                        raise Transient(f"{self.name} ended while it was starting: {self._last_words()}")
                    self._spawn(keeper_lock, deadline)
                    spawned = True
                finally:
                    os.close(keeper_lock)
            if self._ready():
                return
            if time.monotonic() > deadline:
                raise Transient(f"{self.name} did not answer within {START_SECONDS:.0f} s: {self._last_words()}")
            time.sleep(_POLL_SECONDS)  # servers have no portable "ready" event; their sockets are asked

    def _spawn(self, keeper_lock: int, deadline: float) -> None:
        server_lock = self._wait_for_remains(deadline)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._log.rename(self._log.with_name("log.1"))
            base = place.base_for(self.data_dir)
            command = self._prepare(base)
            orders = asdict(command) | {
                "env": {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"},
                "cwd": str(base),
                "uid": place.server_uid(),
                "log": str(self._log),
                "users_lock": str(self._lock("users")),
                "server_lock": server_lock,
                "grace": _GRACE_SECONDS,
            }
            subprocess.run(
                [sys.executable, "-I", keeper.__file__],
                input=json.dumps(orders),
                text=True,
                check=True,
                pass_fds=[keeper_lock, server_lock],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except subprocess.CalledProcessError as error:
            raise Transient(f"{self.name} could not be started (exit status {error.returncode})") from error
        finally:
            os.close(server_lock)

    def _wait_for_remains(self, deadline: float) -> int:
        """After a kill -9 of the server its children may still be writing; they hold this lock as long as they live."""
        while (server_lock := locks.hold(self._lock("server"), wait=False)) is None:
            if time.monotonic() > deadline:
                raise Transient(f"processes of an earlier {self.name} are still using {self.data_dir}")
            time.sleep(_POLL_SECONDS)
        return server_lock

    def _let_go(self) -> None:
        """Called under the `start` lock, so nobody attaches meanwhile."""
        assert self._users is not None
        os.close(self._users)
        self._users = None
        unused = not locks.held(self._lock("users"))
        stopping = not unused and locks.held(self._lock("users"), shared=True)
        if unused or stopping:
            with locks.exclusive(self._lock("keeper")):
                pass

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return " / ".join(lines[-4:]) or "it left no message"
