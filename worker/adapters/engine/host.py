"""Hosting an inference engine: one event loop on a thread of its own, blocking calls from any number of others.

Whoever calls gets an answer or an error by its deadline: a call that was cancelled or is late is aborted, and an
engine that died, or stopped making progress, fails every call at once. What the engine is stands behind `Backend`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from worker.adapters.engine.port import EngineFacts, EngineLoad, Finish, Generated, Request
from worker.adapters.engine.shares import Shares
from worker.errors import ModelRejected, ModelUnavailable

log = logging.getLogger(__name__)

TICK = 0.05  # seconds between two looks at cancellations, deadlines and progress
HANG_SECONDS = 60.0
ABORT_SECONDS = 15.0  # an abort takes one engine step
ABORT_AGAIN = 0.25  # seconds between two of one call's: an engine may not know a call yet that it was just given
SLACK = 30.0  # beyond a call's deadline: then the loop itself hangs


class BackendDied(Exception):
    """The engine can't serve any call any more."""


class BadRequest(Exception):
    """This request can't be served; others can."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a backend says of a finished call; seconds."""

    ids: array[int]
    finish: Finish
    prompt: int
    cached: int
    queued: float
    first: float
    decode: float


@dataclass(kw_only=True)
class Report:
    """What a backend last said of itself. `steps` grows with each step of the engine: its sign of life. The tokens are
    the engine's own sums, of all its calls."""

    steps: int = 0
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Backend(Protocol):
    """An engine as the loop sees it. All methods are called on the loop's thread."""

    @property
    def facts(self) -> EngineFacts: ...

    @property
    def report(self) -> Report: ...

    async def run(self, name: str, request: Request) -> Raw:
        """Raises BackendDied and BadRequest. After `abort(name)` it comes back with finish "abort"."""

    async def abort(self, name: str) -> None:
        """Repeated until the call has ended: nothing happens for one that is not known, or not any more."""

    @property
    def dead(self) -> bool:
        """It ended by itself, also while nobody called."""

    def close(self) -> None:
        """End all its processes, also when they hang."""


@dataclass(kw_only=True, eq=False)
class _Call:
    deadline: float
    cancel: Event | None
    task: asyncio.Task[Raw]
    aborted_at: float | None = None  # for the first time
    abort_again: float = 0.0


@dataclass
class _Silence:
    """Seconds without a sign of life. A tick counts at most a second, so that a process which was stopped, its engine
    with it, is not taken for one whose engine hangs."""

    seconds: float = 0.0
    steps: int = -1
    at: float = field(default_factory=time.monotonic)

    def tick(self, steps: int, *, busy: bool) -> float:
        now = time.monotonic()
        passed, self.at = min(now - self.at, 1.0), now
        alive = not busy or steps != self.steps
        self.steps = steps
        self.seconds = 0.0 if alive else self.seconds + passed
        return self.seconds


class EngineHost:
    """An `Engine` around a backend. Made and shut down by the process that owns it; safe for threads."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Backend]],
        *,
        gpus: int = 1,
        start_seconds: float = 1200.0,
        hang_seconds: float = HANG_SECONDS,
        on_death: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Blocks until the engine is up. What `start` raises passes through; ModelUnavailable when it takes longer
        than `start_seconds`. `on_death` is called once, with the reason, when the engine died or hangs; it must not
        block, and never follows a shutdown."""
        self._hang_seconds = hang_seconds
        self._on_death = on_death
        self._calls: dict[str, _Call] = {}
        self._count = 0
        self._dead: str | None = None
        self._gpus = gpus
        self._times = (0.0, 0.0)
        self._failed = 0.0  # GPU-seconds of calls that got no answer
        self._closing = threading.Lock()
        self._dying = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self._start(start), self._loop)
        try:
            self._backend, self._watcher = starting.result(start_seconds)
        except BaseException as error:
            self._end_loop()
            if isinstance(error, FutureTimeout):
                raise ModelUnavailable(f"the engine did not start within {start_seconds:g} s") from error
            raise

    async def _start(self, start: Callable[[], Awaitable[Backend]]) -> tuple[Backend, asyncio.Task[None]]:
        backend = await start()
        self._shares = Shares(gpus=self._gpus)
        return backend, asyncio.create_task(self._watch(backend))

    @property
    def facts(self) -> EngineFacts:
        return self._backend.facts

    @property
    def alive(self) -> bool:
        return self._dead is None and self._thread.is_alive()

    def load(self) -> EngineLoad:
        # An engine without calls takes no steps, and so says nothing new.
        report, (busy, idle) = self._backend.report if self._calls else Report(), self._times
        return EngineLoad(
            running=report.running,
            waiting=report.waiting,
            kv_used=report.kv_used,
            busy_seconds=busy,
            idle_seconds=idle,
            failed_gpu_seconds=self._failed,
        )

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of all calls so far, by the engine's own count."""
        return self._backend.report.prompt_tokens, self._backend.report.completion_tokens

    def generate(self, request: Request, *, deadline: float, cancel: Event | None = None) -> Generated:
        """See `Engine.generate`."""
        if not self.alive:
            raise ModelUnavailable(f"the engine is down: {self._dead}")
        calling = asyncio.run_coroutine_threadsafe(self._call(request, deadline, cancel), self._loop)
        try:
            return calling.result(max(0.0, deadline - time.monotonic()) + ABORT_SECONDS + SLACK)
        except FutureTimeout as error:
            self._die("its event loop does not answer")
            raise ModelUnavailable(f"the engine is down: {self._dead}") from error

    async def _call(self, request: Request, deadline: float, cancel: Event | None) -> Generated:
        if self._dead is not None:
            raise ModelUnavailable(f"the engine is down: {self._dead}")
        started = time.monotonic()
        self._count += 1
        name = str(self._count)
        task = asyncio.create_task(self._backend.run(name, request))
        self._calls[name] = _Call(deadline=deadline, cancel=cancel, task=task)
        mark = self._shares.enter()
        answered = False
        try:
            raw = await task
            answered = True
        except BadRequest as error:
            raise ModelRejected(str(error)) from error
        except BackendDied as error:
            self._die(str(error))
            raise ModelUnavailable(f"the engine died: {error}") from error
        except asyncio.CancelledError as error:
            raise ModelUnavailable(f"the engine is down: {self._dead}") from error
        finally:
            del self._calls[name]
            share = self._shares.leave(mark)
            self._failed += 0.0 if answered else share
        return Generated(
            ids=raw.ids,
            finish=raw.finish,
            prompt=raw.prompt,
            cached=raw.cached,
            queued=raw.queued,
            first=raw.first,
            decode=raw.decode,
            seconds=time.monotonic() - started,
            gpu_seconds=share,
        )

    async def _watch(self, backend: Backend) -> None:
        silence = _Silence()
        while self._dead is None:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self._times = self._shares.times()
            for name, call in list(self._calls.items()):
                if call.aborted_at is None and (
                    now > call.deadline or (call.cancel is not None and call.cancel.is_set())
                ):
                    call.aborted_at = call.abort_again = now
                if call.aborted_at is None:
                    continue
                if now - call.aborted_at > ABORT_SECONDS:
                    self._die(f"an aborted call did not end within {ABORT_SECONDS:g} s")
                elif now >= call.abort_again:
                    call.abort_again = now + ABORT_AGAIN
                    await backend.abort(name)
            if backend.dead:
                self._die("its process ended")
            if silence.tick(backend.report.steps, busy=bool(self._calls)) > self._hang_seconds:
                self._die(f"{len(self._calls)} calls in flight and no progress for {self._hang_seconds:g} s")

    def _die(self, why: str) -> None:
        """From any thread: a loop that hangs fails its calls once it goes on. Again: nothing happens."""
        with self._dying:
            if self._dead is not None:
                return
            self._dead = why
        log.error("engine_died", extra={"reason": why, "calls": len(self._calls)})
        self._loop.call_soon_threadsafe(self._fail_all)
        self._on_death(why)

    def _fail_all(self) -> None:
        for call in self._calls.values():
            call.task.cancel()

    def shutdown(self) -> None:
        """See `Engine.shutdown`."""
        with self._closing:
            if self._loop.is_closed():
                return
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
            self._end_loop()

    async def _close(self) -> None:
        self._watcher.cancel()
        pending = [call.task for call in self._calls.values()]
        with self._dying:
            self._dead = self._dead or "it was shut down"
        self._fail_all()
        if pending:
            await asyncio.wait(pending, timeout=5)
        self._backend.close()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._thread.is_alive():
            self._loop.close()
