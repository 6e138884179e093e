"""Who may hold KV memory: trajectories are let in by the tokens they will hold, and their calls by the tokens they do.

Two limits, since a trajectory that waits for a tool holds memory that may leave the GPU, and one in a call does not:

- residents: what all trajectories hold, each counted at least at the mean context that was seen, has to fit in GPU
  memory and the host's tier behind it; else every step computes contexts again that were pushed out meanwhile;
- turns (`turns.py`): what the calls in flight hold has to fit on the GPU; else the engine takes running ones off again.

What is computed again is the signal whether the first limit is right: `pressure` moves it.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from worker.adapters.engine.prefixes import Chain, Prefixes, chain
from worker.adapters.engine.turns import Call, Turns
from worker.gates import Load, Room

HOST_SHARE = 0.9
REACH = 1.65  # residents beyond the GPU that still help: enough to fill it while others wait for their tools
ALONE_SHARE = 0.92  # without a host tier; what trajectories that ended left behind is in the way, too

ANSWER = 256  # tokens of an answer, until some were seen
LEARN = 1 / 64  # weight of one call in what is computed again and in the first means
CALLS = 1024  # that the means look back at: fewer, and a wave of young trajectories lets in a larger one
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
    """One conversation's account; used by one thread at a time."""

    def __init__(self, admission: KvAdmission, *, beside: bool) -> None:
        self._admission = admission
        self.beside = beside  # no trajectory's: its calls fill what these leave
        self.chain: Chain = ()  # of its first prompt
        self.tokens = 0  # at its last call
        self.used_at = 0.0  # when its last call ended

    @contextmanager
    def turn(self, ids: array[int], answer: int, *, deadline: float, cancel: Event | None) -> Iterator[float | None]:
        """Wait until a call with this prompt and so long an answer fits on the GPU, and hold that memory inside the
        block: the seconds waited, or None when it was cancelled or late first."""
        call = self._admission.call(self, ids, answer)
        waited = self._admission.turns.take(call, deadline=deadline, cancel=cancel)
        try:
            yield waited
        finally:
            if waited is not None:
                self._admission.ended(self, call)

    def answered(self, *, prompt: int, cached: int, cacheable: int, completion: int) -> None:
        """A call ended. `cacheable`: tokens of the prompt that a cache which lost nothing had given back."""
        if not self.beside:
            self._admission.learn(prompt, again=max(0, cacheable - cached), completion=completion)

    def close(self) -> None:
        self._admission.release(self)


class KvAdmission:
    """One engine's memory; safe for threads. A gate like those of `worker.gates`, and the turns of the calls behind
    it. What several contexts begin with is held once and counts once."""

    name = "kv_tokens"

    def __init__(
        self,
        capacity: Capacity,
        *,
        expected: int,
        waited: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expected`: the mean context, in tokens, until some were seen. `clock`: seconds that only grow."""
        self._clock = clock
        self._capacity = capacity
        self._prefixes = Prefixes()
        self._mean = float(expected)
        self._answer = float(ANSWER)
        self._calls = 0
        self._again = 0.0
        self._pressure = 1.0
        self._lock = threading.Lock()
        self._room = Room()
        self._wanted = False  # somebody asked for room in vain
        self._entered = 0
        self._seats: set[Seat] = set()
        self.turns = Turns(capacity.gpu, waited=waited, spare=self._spare, clock=clock)

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

    def seat(self, *, beside: bool = False) -> Seat:
        """For a conversation of a trajectory that entered; or `beside` them, for single calls."""
        seat = Seat(self, beside=beside)
        if not beside:
            with self._changes():
                self._seats.add(seat)
        return seat

    def release(self, seat: Seat) -> None:
        with self._changes():
            self._prefixes.remove(seat.chain)
            seat.chain = ()
            self._seats.discard(seat)

    def load(self) -> Load:
        return Load(
            holding=self._entered,
            waiting=self.turns.waiting,
            waited=self.turns.waits,
            waited_seconds=self.turns.waited_seconds,
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
        held, next_one = self._held()
        return held + next_one <= self._capacity.residents * self._pressure

    def _held(self) -> tuple[float, float]:
        """Tokens of all that entered, and of one more."""
        overlaps = {seat: self._prefixes.overlap(seat.chain) for seat in self._seats if seat.chain}
        own = max(1.0, self._mean - (sum(overlaps.values()) / len(overlaps) if overlaps else 0))
        held = sum(max(own, seat.tokens - overlaps.get(seat, 0)) for seat in self._seats)
        held += max(0, self._entered - len(self._seats)) * own
        return held + self._prefixes.common, own

    def _spare(self, tokens: int) -> bool:
        with self._lock:
            return self._held()[0] + tokens <= self._capacity.residents * self._pressure

    # -- their calls

    def call(self, seat: Seat, ids: array[int], answer: int) -> Call:
        """What this conversation's next call needs."""
        names = () if seat.chain else chain(ids)
        with self._lock:
            if names:
                seat.chain = names
                self._prefixes.add(names)
            seat.tokens = len(ids)
            self.turns.common = self._prefixes.common
            # Few answers come near their limit: room is held for one twice as long as usual.
            length = min(len(ids) + min(answer, round(2 * self._answer)), self._capacity.context)
            need = length - self._prefixes.overlap(seat.chain)
        return Call(need=max(1, need), used_at=seat.used_at, beside=seat.beside)

    def ended(self, seat: Seat, call: Call) -> None:
        """A call that had its turn is over."""
        seat.used_at = self._clock()
        self.turns.end(call)

    # -- learning

    def learn(self, prompt: int, *, again: int, completion: int) -> None:
        """`again`: tokens of the prompt that were computed though they had been before."""
        with self._changes():
            self._calls += 1
            weight = 1 / min(CALLS, 1 / LEARN + self._calls)
            self._mean += weight * (prompt + completion - self._mean)
            self._answer += weight * (completion - self._answer)
            self._again += LEARN * (again / prompt - self._again) if prompt else 0.0
            if self._again > TOO_MUCH:
                self._pressure = max(LOWEST, self._pressure * STEP_DOWN)
                self._again = (TOO_MUCH + LITTLE) / 2  # let the step show before the next
            elif self._again < LITTLE:
                self._pressure = min(HIGHEST, self._pressure * STEP_UP)
