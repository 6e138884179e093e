"""Gates: what a worker has room for, besides its slots. Permits are consumed only while every gate has room."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Protocol

POLL = 0.1  # seconds between two looks at whether a command that waits was cancelled


@dataclass(frozen=True, kw_only=True)
class Load:
    """Of a gate: who is inside, who waits, and what waiting cost so far."""

    holding: int
    waiting: int
    waited: int  #: how many had to wait, ever
    waited_seconds: float  #: all their waits together


class Gate(Protocol):
    """Whether this worker takes more. Safe to use from several threads; never blocks."""

    def room(self) -> bool:
        """Whether one more would be admitted now."""

    def when_room(self, action: Callable[[], None]) -> None:
        """Call `action`, from whatever thread, each time room comes back."""


class Measured(Gate, Protocol):
    """One thing that runs out."""

    @property
    def name(self) -> str: ...

    def load(self) -> Load: ...


class Admission(Measured, Protocol):
    """A gate that trajectories pass one by one."""

    def enter(self) -> bool:
        """Admit one, to be followed by `leave`; False, without waiting, when there is no room."""

    def leave(self) -> None: ...


class Room:
    """Tells whoever wants to know that room came back."""

    def __init__(self) -> None:
        self._actions: list[Callable[[], None]] = []

    def add(self, action: Callable[[], None]) -> None:
        self._actions.append(action)

    def tell(self) -> None:
        for action in self._actions:
            action()


class TokenGate:
    """KV memory: a trajectory is admitted when its expected mean context fits beside those of the others.

    `capacity()` is in tokens, asked anew each time; None: unlimited. One trajectory is always admitted, be it as large
    as it may: else nothing would ever run. Nobody waits inside: the worker itself waits, from when it asked for room in
    vain until there is some, and `waited` is told with each admission the seconds that it followed.
    """

    name = "kv_tokens"

    def __init__(
        self, capacity: Callable[[], int | None], *, expected: int, waited: Callable[[float], None] = lambda _: None
    ) -> None:
        self._capacity = capacity
        self._expected = expected
        self._tell = waited
        self._holding = 0
        self._since: float | None = None  # asked in vain
        self._until: float | None = None  # and since then there is room
        self._waited = 0
        self._waited_seconds = 0.0
        self._lock = threading.Lock()
        self._room = Room()

    def _fits(self) -> bool:
        capacity = self._capacity()
        return capacity is None or self._holding == 0 or (self._holding + 1) * self._expected <= capacity

    def _asked(self) -> bool:
        fits = self._fits()
        if not fits:
            self._since, self._until = self._since or time.monotonic(), None
        return fits

    def room(self) -> bool:
        with self._lock:
            return self._asked()

    def enter(self) -> bool:
        """Admit one trajectory, to be followed by `leave`; False, without waiting, when there is no room."""
        with self._lock:
            if not self._asked():
                return False
            self._holding += 1
            waited = 0.0
            if self._since is not None:
                waited = (self._until or time.monotonic()) - self._since
                self._since = self._until = None
                self._waited += 1
                self._waited_seconds += waited
        self._tell(waited)
        return True

    def leave(self) -> None:
        with self._lock:
            self._holding -= 1
            if self._since is not None and self._until is None and self._fits():
                self._until = time.monotonic()
        self._room.tell()

    def load(self) -> Load:
        with self._lock:
            return Load(
                holding=self._holding,
                waiting=int(self._since is not None and self._until is None),
                waited=self._waited,
                waited_seconds=self._waited_seconds,
            )

    def when_room(self, action: Callable[[], None]) -> None:
        self._room.add(action)


class CommandGate:
    """CPU: so many sandboxed commands run at once in this process; the others wait, first come, first served."""

    name = "commands"

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._queue: deque[object] = deque()
        self._waited = 0
        self._waited_seconds = 0.0
        self._changed = threading.Condition()
        self._room = Room()

    def room(self) -> bool:
        with self._changed:
            return self._running < self._limit and not self._queue

    def load(self) -> Load:
        with self._changed:
            return Load(
                holding=self._running,
                waiting=len(self._queue),
                waited=self._waited,
                waited_seconds=self._waited_seconds,
            )

    def when_room(self, action: Callable[[], None]) -> None:
        self._room.add(action)

    @contextmanager
    def turn(self, cancel: Event | None) -> Iterator[float | None]:
        """Wait for a turn and have it inside the block: the seconds waited, or None when `cancel` came first."""
        waited = self._enter(cancel)
        try:
            yield waited
        finally:
            if waited is not None:
                self._leave()

    def _enter(self, cancel: Event | None) -> float | None:
        ticket, started = object(), time.monotonic()
        with self._changed:
            if self._running < self._limit and not self._queue:
                self._running += 1
                return 0.0
            self._queue.append(ticket)
            try:
                while self._running >= self._limit or self._queue[0] is not ticket:
                    if cancel is not None and cancel.is_set():
                        return None
                    self._changed.wait(None if cancel is None else POLL)
                self._running += 1
                waited = time.monotonic() - started
                self._waited += 1
                self._waited_seconds += waited
                return waited
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
            free = self._running < self._limit and not self._queue
        if free:
            self._room.tell()
