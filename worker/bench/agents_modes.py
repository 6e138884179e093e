"""How trajectories share the engine: who may start, and whether their calls go in step."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from typing import Protocol

from worker.gates import Load

MODES = ("one-at-a-time", "lockstep", "plain", "admitted")


class Over(Exception):
    """The window is over: whatever was going on is given up."""


class Admission(Protocol):
    """Around a trajectory. Called from many threads."""

    def admit(self, conversation_tokens: int) -> float:
        """Blocks until a trajectory that begins with so many tokens may start: seconds waited, 0.0 where it found room
        at once. Raises Over once closed."""

    def leave(self) -> None: ...

    def load(self) -> Load: ...

    def close(self) -> None:
        """Whoever waits gets Over."""


class Unlimited:
    """Everybody may start."""

    def __init__(self) -> None:
        self._holding = 0
        self._lock = threading.Lock()

    def admit(self, conversation_tokens: int) -> float:  # noqa: ARG002 - the port's
        with self._lock:
            self._holding += 1
        return 0.0

    def leave(self) -> None:
        with self._lock:
            self._holding -= 1

    def load(self) -> Load:
        return Load(holding=self._holding, waiting=0, waited=0, waited_seconds=0.0)

    def close(self) -> None:
        pass


class Gate(Protocol):
    """The worker's gate for KV memory."""

    def enter(self) -> bool: ...

    def leave(self) -> None: ...

    def when_room(self, action: Callable[[], None]) -> None: ...

    def load(self) -> Load: ...


class Gated:
    """First come, first served at the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._queue: deque[Event] = deque()
        self._lock = threading.Lock()
        self._waited = 0
        self._waited_seconds = 0.0
        self._closed = False
        gate.when_room(self._wake)

    def admit(self, conversation_tokens: int) -> float:  # noqa: ARG002 - this gate counts means
        started, woken = time.monotonic(), Event()
        with self._lock:
            if self._closed:
                raise Over
            if not self._queue and self._gate.enter():
                return 0.0
            self._queue.append(woken)
        while True:
            with self._lock:
                if self._closed:
                    raise Over
                if self._queue[0] is woken and self._gate.enter():
                    self._queue.popleft()
                    waited = time.monotonic() - started
                    self._waited += 1
                    self._waited_seconds += waited
                    break
                woken.clear()
            woken.wait()
        self._wake()  # there may be room for the next one, too
        return waited

    def leave(self) -> None:
        self._gate.leave()

    def load(self) -> Load:
        with self._lock:
            return Load(
                holding=self._gate.load().holding,
                waiting=len(self._queue),
                waited=self._waited,
                waited_seconds=self._waited_seconds,
            )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for woken in self._queue:
                woken.set()

    def _wake(self) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].set()


class Pace(Protocol):
    def call(self) -> AbstractContextManager[None]:
        """Around each model call. Raises Over once closed."""

    def close(self) -> None: ...


class Free:
    """Each trajectory calls when it has something to ask."""

    @contextmanager
    def call(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        pass


class Lockstep:
    """One generation over all trajectories per round: none starts before all are ready, none goes on before all have
    their answer. Their tools then run side by side."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)

    @contextmanager
    def call(self) -> Iterator[None]:
        self._wait()
        try:
            yield
        finally:
            self._wait()

    def close(self) -> None:
        self._barrier.abort()

    def _wait(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise Over from None
