"""Who may hold KV memory: trajectories are let in by the tokens they will hold, and their calls by the tokens they do.

Two limits, since a trajectory that waits for a tool holds memory that may leave the GPU, and one in a call does not:

- residents: what all trajectories hold, each counted at least at the mean context that was seen, has to fit in GPU
  memory and the host's tier behind it; else every step computes contexts again that were pushed out meanwhile;
- turns: what the calls in flight hold has to fit on the GPU; else the engine takes running ones off again.

What is computed again is the signal whether the first limit is right: `pressure` moves it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from worker.gates import Load, Room

GPU_SHARE = 0.93  # of GPU memory for calls in flight: answers grow, blocks round up
HOST_SHARE = 0.9
REACH = 1.65  # residents beyond the GPU that still help: enough to fill it while others wait for their tools
ALONE_SHARE = 0.92  # without a host tier; what trajectories that ended left behind is in the way, too
PATIENCE = 10.0  # seconds; a call that waited longer goes before any whose context may still be cached
POLL = 0.05  # seconds between two looks at a call's cancellation

ANSWER = 256  # tokens of an answer, until some were seen
LEARN = 1 / 64  # weight of one call in the running means
TOO_MUCH, LITTLE = 0.02, 0.005  # of prompt tokens computed again
STEP_DOWN, STEP_UP = 0.95, 1.002
LOWEST, HIGHEST = 0.5, 1.0


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Tokens. `host`: KV memory behind the GPU's; `context`: the longest context."""

    gpu: int
    context: int
    host: int = 0

    @property
    def residents(self) -> float:
        """The host's tier keeps a copy of what the GPU holds, too: the larger of both counts, not their sum."""
        return max(ALONE_SHARE * self.gpu, min(HOST_SHARE * self.host, REACH * self.gpu))


class Seat:
    """One resident trajectory's account; used by one thread at a time."""

    def __init__(self, admission: KvAdmission) -> None:
        self._admission = admission
        self.tokens = 0  # at its last call
        self.left_at = 0.0  # when its last call ended

    @contextmanager
    def turn(self, tokens: int, answer: int, *, deadline: float, cancel: Event | None) -> Iterator[float | None]:
        """Wait until a call with a prompt of `tokens` and so long an answer fits on the GPU, and hold that memory
        inside the block: the seconds waited, or None when it was cancelled or late first."""
        waited = self._admission.take_turn(self, tokens, answer, deadline=deadline, cancel=cancel)
        try:
            yield waited
        finally:
            if waited is not None:
                self._admission.end_turn(self)

    def answered(self, *, prompt: int, cached: int, cacheable: int, completion: int) -> None:
        """A call ended. `cacheable`: tokens of the prompt that a cache which lost nothing had given back."""
        self._admission.learn(prompt, again=max(0, cacheable - cached), completion=completion)

    def close(self) -> None:
        self._admission.release(self)


@dataclass(eq=False)
class _Waiter:
    seat: Seat
    need: int
    since: float
    woken: Event


class KvAdmission:
    """One engine's memory; safe for threads. A gate like those of `worker.gates`, and the turns of the calls behind
    it. The tokens that all contexts begin with, as the newest conversation said, are held once and count once."""

    name = "kv_tokens"

    def __init__(
        self,
        capacity: Capacity,
        *,
        expected: int,
        waited: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`expected`: the mean context, in tokens, until some were seen."""
        self._capacity = capacity
        self._shared = 0
        self._tell = waited
        self._mean = float(expected)
        self._answer = float(ANSWER)
        self._again = 0.0
        self._pressure = 1.0
        self._lock = threading.Lock()
        self._room = Room()
        self._wanted = False  # somebody asked for room in vain
        self._entered = 0
        self._seats: set[Seat] = set()
        self._running: dict[Seat, int] = {}
        self._waiting: list[_Waiter] = []
        self._waits, self._waited_seconds = 0, 0.0

    # -- trajectories

    def room(self) -> bool:
        with self._lock:
            return self._asked()

    def enter(self) -> bool:
        """Admit one trajectory, to be followed by `leave`; False, without waiting, when there is no room."""
        with self._lock:
            if not self._asked():
                return False
            self._entered += 1
            return True

    def leave(self) -> None:
        with self._changes():
            self._entered -= 1

    def when_room(self, action: Callable[[], None]) -> None:
        self._room.add(action)

    def seat(self, shared: int = 0) -> Seat:
        """For a conversation of a trajectory that entered, and begins with so many tokens as others do, too."""
        seat = Seat(self)
        with self._changes():
            self._shared = shared
            self._seats.add(seat)
        return seat

    def release(self, seat: Seat) -> None:
        with self._changes():
            self._seats.discard(seat)

    def load(self) -> Load:
        with self._lock:
            return Load(
                holding=self._entered,
                waiting=len(self._waiting),
                waited=self._waits,
                waited_seconds=self._waited_seconds,
            )

    @property
    def pressure(self) -> float:
        """The share of the first limit that is used, as learnt."""
        return self._pressure

    @contextmanager
    def _changes(self) -> Iterator[None]:
        """Around what may bring room: trajectories that end, and also contexts that turn out shorter than expected."""
        with self._lock:
            yield
            came = self._wanted and self._fits()
            self._wanted = self._wanted and not came
        if came:
            self._room.tell()

    def _asked(self) -> bool:
        fits = self._fits()
        self._wanted = self._wanted or not fits
        return fits

    def _fits(self) -> bool:
        if self._entered == 0:
            return True  # one is always admitted, be it as large as it may: else nothing would ever run
        own = max(1.0, self._mean - self._shared)
        held = sum(max(own, seat.tokens - self._shared) for seat in self._seats)
        held += max(0, self._entered - len(self._seats)) * own
        return held + own + self._shared <= self._capacity.residents * self._pressure

    # -- their calls

    def take_turn(self, seat: Seat, tokens: int, answer: int, *, deadline: float, cancel: Event | None) -> float | None:
        started = time.monotonic()
        # Few answers come near their limit: room is held for one twice as long as usual.
        need = min(tokens + min(answer, round(2 * self._answer)), self._capacity.context) - self._shared
        waiter = _Waiter(seat, max(1, need), started, Event())
        with self._lock:
            seat.tokens = tokens
            self._waiting.append(waiter)
            self._hand_out()
        if waiter.woken.is_set():
            self._tell(0.0)
            return 0.0
        while not waiter.woken.wait(POLL):
            if time.monotonic() > deadline or (cancel is not None and cancel.is_set()):
                with self._lock:
                    if waiter not in self._waiting:
                        break  # it was its turn at that very moment
                    self._waiting.remove(waiter)
                    self._hand_out()
                return None
        waited = time.monotonic() - started
        with self._lock:
            self._waits += 1
            self._waited_seconds += waited
        self._tell(waited)
        return waited

    def end_turn(self, seat: Seat) -> None:
        with self._lock:
            seat.left_at = time.monotonic()
            self._running.pop(seat, None)
            self._hand_out()

    def _hand_out(self) -> None:
        """Give turns while there is room. The context that was used last is most likely still cached, so it goes
        first; but nobody waits beyond patience, and whoever does is not overtaken by smaller ones."""
        now = time.monotonic()
        limit = GPU_SHARE * self._capacity.gpu - self._shared
        while self._waiting:
            late = [waiter for waiter in self._waiting if now - waiter.since > PATIENCE]
            first = (
                min(late, key=lambda waiter: waiter.since)
                if late
                else max(self._waiting, key=lambda waiter: waiter.seat.left_at)
            )
            used = sum(self._running.values())
            if self._running and used + first.need > limit:
                return
            self._waiting.remove(first)
            self._running[first.seat] = first.need
            first.woken.set()

    # -- learning

    def learn(self, prompt: int, *, again: int, completion: int) -> None:
        """`again`: tokens of the prompt that were computed though they had been before."""
        with self._changes():
            self._mean += LEARN * (prompt + completion - self._mean)
            self._answer += LEARN * (completion - self._answer)
            self._again += LEARN * (again / prompt - self._again) if prompt else 0.0
            if self._again > TOO_MUCH:
                self._pressure = max(LOWEST, self._pressure * STEP_DOWN)
                self._again = (TOO_MUCH + LITTLE) / 2  # let the step show before the next
            elif self._again < LITTLE:
                self._pressure = min(HIGHEST, self._pressure * STEP_UP)
