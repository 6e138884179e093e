"""Who may hold KV memory: trajectories are let in by the tokens they will hold, and their calls by the tokens they do.

Three limits, since a trajectory that waits for a tool holds memory that may leave the GPU, and one in a call does not:

- residents: as many trajectories as fit at the mean context of those that ended, on the GPU and somewhat beyond: enough
  to fill it while others wait for their tools;
- what residents hold now has to fit in GPU memory or the host's tier behind it, else every step computes contexts again
  that were pushed out meanwhile. Where all grew long together, those that came last are parked: their calls wait until
  others have ended, which costs them one computation of their context, and all others none;
- turns (`turns.py`): what the calls in flight hold has to fit on the GPU; else the engine takes running ones off again.

What is computed again is the signal whether the first two are right: `pressure` moves them.
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

REACH = 1.25  # of the GPU: residents at the mean context, where a host's tier keeps what does not fit
REACH_SHARE = 0.8  # of the host's tier, likewise
HOST_SHARE = 0.9  # of the host's tier: what residents hold; in the rest is what trajectories that ended left behind
ALONE_SHARE = 0.92  # of the GPU, without a host's tier, for both
BACK = 0.05  # of the limit that has to be free, too, before one that was parked goes on

ANSWER = 256  # tokens of an answer, until some were seen
CALLS = 1024  # that the mean answer looks back at
PRIOR, TRAJECTORIES = 16, 64  # that the expected context counts for; that the mean of those that ended looks back at
LEARN = 1 / 64  # weight of one call in what is computed again, and of the first ones in the mean answer
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
        """At the mean context. The host's tier keeps a copy of what the GPU holds, too: the larger of both counts, not
        their sum."""
        return max(ALONE_SHARE * self.gpu, min(REACH_SHARE * self.host, REACH * self.gpu))

    @property
    def whole(self) -> float:
        """That residents may hold at any moment."""
        return max(ALONE_SHARE * self.gpu, HOST_SHARE * self.host)


class Lives:
    """The mean context that trajectories hold over their lives. Of those that ended, since all that run may be young;
    and of many, since else a wave of short ones lets in a larger one."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._count = 0
        self._calls = self._sum = 0.0  # means a trajectory

    @property
    def context(self) -> float:
        """Tokens."""
        return self._sum / self._calls if self._count else self._expected

    def ended(self, calls: int, total: int) -> None:
        """A trajectory with so many calls; `total`: tokens of their contexts. Without any, nothing is learnt."""
        if not calls:
            return
        if not self._count:
            self._calls, self._sum = float(calls), float(self._expected * calls)
        self._count += 1
        weight = 1 / min(TRAJECTORIES, PRIOR + self._count)
        self._calls += weight * (calls - self._calls)
        self._sum += weight * (total - self._sum)


class Seat:
    """One conversation's account; used by one thread at a time."""

    def __init__(self, admission: KvAdmission, *, beside: bool) -> None:
        self._admission = admission
        self.beside = beside  # no trajectory's: its calls fill what these leave
        self.chain: Chain = ()  # of its first prompt
        self.tokens = 0  # at its last call
        self.calls, self.sum = 0, 0  # that were answered; their contexts' tokens
        self.restored = False  # others made the first calls of this trajectory
        self.parked = False
        self.returns = False  # it was, since its last answer

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
                self._admission.turns.end(call)

    def answered(self, *, prompt: int, cached: int, cacheable: int, completion: int) -> None:
        """A call ended. `cacheable`: tokens of the prompt that a cache which lost nothing had given back."""
        if not self.beside:
            self.calls, self.sum = self.calls + 1, self.sum + prompt + completion
            # What being parked costs was chosen; it says nothing about the limits.
            again = 0 if self.returns else max(0, cacheable - cached)
            self.returns = self.parked
            self._admission.learn(prompt, again=again, completion=completion)

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
        self._capacity = capacity
        self._prefixes = Prefixes()
        self._lives = Lives(expected)
        self._answer = float(ANSWER)
        self._calls = 0
        self._again = 0.0
        self._pressure = 1.0
        self._lock = threading.Lock()
        self._room = Room()
        self._wanted = False  # somebody asked for room in vain
        self._entered = 0
        self._seats: dict[Seat, None] = {}  # in the order in which they came
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
                self._seats[seat] = None
        return seat

    def release(self, seat: Seat) -> None:
        with self._changes():
            self._prefixes.remove(seat.chain)
            seat.chain = ()
            self._seats.pop(seat, None)
            if not seat.restored:
                self._lives.ended(seat.calls, seat.sum)
            self._park()
        self.turns.look()

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
        own, now = self._own(), self._now()
        if any(seat.parked for seat in self._seats) or now + own > self._capacity.whole * self._pressure:
            return False
        return (self._entered + 1) * own + self._prefixes.common <= self._capacity.residents * self._pressure

    def _own(self) -> float:
        """Tokens of one trajectory, at the mean, less what it shares with others."""
        overlaps = [self._prefixes.overlap(seat.chain) for seat in self._seats if seat.chain]
        return max(1.0, self._lives.context - (sum(overlaps) / len(overlaps) if overlaps else 0))

    def _sizes(self) -> dict[Seat, int]:
        """Tokens that those hold that made a call."""
        return {seat: max(1, seat.tokens - self._prefixes.overlap(seat.chain)) for seat in self._seats if seat.tokens}

    def _now(self) -> float:
        """Tokens of all that entered, and have to begin yet."""
        sizes = self._sizes()
        return sum(sizes.values()) + max(0, self._entered - len(sizes)) * self._own() + self._prefixes.common

    def _park(self) -> None:
        limit, held = self._capacity.whole * self._pressure, self._prefixes.common
        for place, (seat, size) in enumerate(self._sizes().items()):
            held += size
            # The first always goes on, be it as large as it may.
            seat.parked = place > 0 and held > (limit * (1 - BACK) if seat.parked else limit)
            seat.returns = seat.returns or seat.parked

    def _spare(self, tokens: int) -> bool:
        with self._lock:
            most = (self._capacity.residents if self._capacity.host else self._capacity.whole) * self._pressure
            held = max(self._now(), self._entered * self._own() + self._prefixes.common)
            return held + tokens <= most

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
            if not seat.beside:
                self._park()
        return Call(need=max(1, need), beside=seat.beside, parked=lambda: seat.parked)

    # -- learning

    def learn(self, prompt: int, *, again: int, completion: int) -> None:
        """`again`: tokens of the prompt that were computed though they had been before."""
        with self._changes():
            self._calls += 1
            self._answer += (completion - self._answer) / min(CALLS, 1 / LEARN + self._calls)
            self._again += LEARN * (again / prompt - self._again) if prompt else 0.0
            if self._again > TOO_MUCH:
                self._pressure = max(LOWEST, self._pressure * STEP_DOWN)
                self._again = (TOO_MUCH + LITTLE) / 2  # let the step show before the next
            elif self._again < LITTLE:
                self._pressure = min(HIGHEST, self._pressure * STEP_UP)
