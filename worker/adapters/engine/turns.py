"""Whose call is next: the calls in flight hold no more than the GPU's memory, so that the engine never has to take one
off again that it began."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

CALLS_SHARE = 0.98  # of GPU memory for trajectories' calls in flight; their answers are counted with them
PARKED_SHARE = 0.5  # of it, in which parked ones go on: a context computed again costs less than an idle GPU
BESIDE_SHARE = 0.02  # for single calls beside them, whatever the trajectories ask for
PATIENCE = 5.0  # seconds that a call may be overtaken by those behind it that fit where it does not
LINGER = 5.0  # seconds that a single call counts on: what it left in the cache pushes older contexts out
POLL = 0.05  # seconds between two looks at a call's cancellation


@dataclass(eq=False, kw_only=True)
class Call:
    """One that wants to run. `need`: tokens of GPU memory, the answer included. `beside`: no trajectory's. `parked()`:
    whether it waits for others to end; it holds nobody up meanwhile."""

    need: int
    beside: bool = False
    parked: Callable[[], bool] = lambda: False
    since: float = 0.0  # when it asked
    woken: Event = field(default_factory=Event)


class Turns:
    """Safe for threads. First come, first served, and the GPU kept full: while the first does not fit, those behind it
    that do fit go before it; once it waited longer than patience, none does, so that the longest has its turn, too.

    Single calls beside the trajectories fill what these leave: a share that is always theirs, and beyond it whatever
    is free while no trajectory's call waits. First come, first served."""

    def __init__(
        self,
        gpu: int,
        *,
        waited: Callable[[float], None],
        spare: Callable[[int], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`gpu`: tokens of its memory. `waited` is told the seconds of each trajectory's call. `spare(tokens)`: whether
        nobody's cached context is pushed out by so many more."""
        self._clock = clock
        self._gpu = gpu
        self._tell = waited
        self._spare = spare
        self._lock = threading.Lock()
        self._running: set[Call] = set()
        self._waiting: list[Call] = []
        self._beside: deque[Call] = deque()
        self._lingering: deque[tuple[float, int]] = deque()  # until when, tokens
        self.common = 0  # tokens of GPU memory that many of the calls share, and none of them counts
        self.waits, self.waited_seconds = 0, 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, call: Call, *, deadline: float, cancel: Event | None) -> float | None:
        """Blocks until it is this call's turn: the seconds waited; None when it was cancelled or late first."""
        self.ask(call)
        waited = 0.0
        if not call.woken.is_set():
            if not self._wait(call, deadline, cancel):
                return None
            waited = self._clock() - call.since
        if not call.beside:
            with self._lock:
                self.waits += waited > 0
                self.waited_seconds += waited
            self._tell(waited)
        return waited

    def ask(self, call: Call) -> None:
        """`call.woken` is set as soon as it is this call's turn, perhaps at once. To be followed by `end` then."""
        with self._lock:
            call.since = self._clock()
            (self._beside if call.beside else self._waiting).append(call)
            self._hand_out()

    def look(self) -> None:
        """One that was parked may not be any more."""
        with self._lock:
            self._hand_out()

    def end(self, call: Call) -> None:
        with self._lock:
            self._running.discard(call)
            if call.beside:
                self._lingering.append((self._clock() + LINGER, call.need))
            self._hand_out()

    def _wait(self, call: Call, deadline: float, cancel: Event | None) -> bool:
        queue = self._beside if call.beside else self._waiting
        while not call.woken.wait(POLL):
            with self._lock:
                if call.beside and queue[0] is call:
                    self._hand_out()  # what makes room for it may be time alone
                if call.woken.is_set():
                    return True  # its turn, at that very moment
                if self._clock() > deadline or (cancel is not None and cancel.is_set()):
                    queue.remove(call)
                    self._hand_out()
                    return False
        return True

    def _hand_out(self) -> None:
        while (call := self._next()) is not None:
            self._waiting.remove(call)
            self._start(call)
        while self._beside and self._fits_beside(self._beside[0]):
            self._start(self._beside.popleft())

    def _start(self, call: Call) -> None:
        self._running.add(call)
        call.woken.set()

    def _next(self) -> Call | None:
        now = self._clock()
        for call in self._waiting:
            parked = call.parked()
            if self._fits(call, PARKED_SHARE if parked else CALLS_SHARE):
                return call
            if now - call.since > PATIENCE and not parked:
                break
        return None

    def _fits(self, call: Call, share: float) -> bool:
        """Alone it may be as large as it is; the share of single calls is not asked for."""
        used = sum(running.need for running in self._running if not running.beside)
        taken = max(0, sum(running.need for running in self._running if running.beside) - self._share())
        return not used or used + taken + call.need <= share * self._gpu - self.common

    def _fits_beside(self, call: Call) -> bool:
        held = self._held_beside()
        if not self._running or held + call.need <= self._share():
            return True
        used = sum(running.need for running in self._running)
        whole = (CALLS_SHARE + BESIDE_SHARE) * self._gpu - self.common
        wanted = any(not waiting.parked() for waiting in self._waiting)
        return not wanted and used + call.need <= whole and self._spare(held + call.need - self._share())

    def _share(self) -> int:
        return round(BESIDE_SHARE * self._gpu)

    def _held_beside(self) -> int:
        now = self._clock()
        while self._lingering and self._lingering[0][0] <= now:
            self._lingering.popleft()
        return sum(call.need for call in self._running if call.beside) + sum(need for _, need in self._lingering)
