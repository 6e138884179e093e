"""An engine without a model: a KV memory of blocks with a prefix cache, and a rate at which it works."""

from __future__ import annotations

import threading
import time
from array import array
from collections import OrderedDict
from threading import Event

from worker.adapters.engine.port import EngineFacts, EngineLoad, Finish, Generated, Request
from worker.errors import ModelRejected, ModelUnavailable


class SimulatedEngine:
    """Prefill is one queue that all calls share; decoding is not slowed by others. Blocks that were not used for
    longest are forgotten first. Satisfies the port (tests/contracts/test_engine_contract.py)."""

    def __init__(
        self,
        *,
        kv_tokens: int = 100_000,
        block_size: int = 16,
        max_model_len: int = 32_768,
        prefill_rate: float = 5e6,
        decode_seconds: float = 2e-5,
        fails_every: int = 0,
        marker: int | None = None,
    ) -> None:
        """`prefill_rate`: tokens a second; `decode_seconds`: per token. `fails_every`: of so many calls one raises.
        `marker`: a token that stands in the middle of each answer."""
        self.facts = EngineFacts(
            engine="simulated",
            architecture="none",
            kv_tokens=kv_tokens,
            block_size=block_size,
            max_model_len=max_model_len,
            max_num_seqs=1024,
            start_seconds=0.0,
        )
        self._prefill_rate, self._decode_seconds = prefill_rate, decode_seconds
        self._fails_every, self._marker = fails_every, marker
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()
        self._dead = Event()
        self._free_at = self._started = time.monotonic()
        self._busy = 0.0
        self._running: dict[int, int] = {}  # call: tokens
        self.calls = 0
        self.most_running = 0

    @property
    def alive(self) -> bool:
        return not self._dead.is_set()

    def load(self) -> EngineLoad:
        with self._lock:
            held = sum(self._running.values()) / self.facts.kv_tokens
            idle = max(0.0, time.monotonic() - self._started - self._busy)
            return EngineLoad(
                running=len(self._running),
                waiting=0,
                kv_used=min(1.0, held),
                busy_seconds=self._busy,
                idle_seconds=idle,
            )

    def shutdown(self) -> None:
        self._dead.set()

    def generate(self, request: Request, *, deadline: float, cancel: Event | None = None) -> Generated:
        if not self.alive:
            raise ModelUnavailable("the engine was shut down")
        prompt = len(request.ids)
        if prompt + 1 > self.facts.max_model_len:
            raise ModelRejected(f"{prompt} tokens do not fit {self.facts.max_model_len}")
        started = time.monotonic()
        with self._lock:
            self.calls += 1
            number = self.calls
            if self._fails_every and number % self._fails_every == 0:
                raise ModelUnavailable("simulated")
            self._running[number] = prompt + request.max_tokens
            self.most_running = max(self.most_running, len(self._running))
            cached = self._remember(request.ids)
            begin = max(started, self._free_at)
            read = self._free_at = begin + (prompt - cached) / self._prefill_rate
            first = read + self._decode_seconds
            end = read + request.max_tokens * self._decode_seconds
            self._busy += (prompt - cached) / self._prefill_rate
        try:
            finish = self._wait(min(end, deadline), end, cancel)
        finally:
            with self._lock:
                del self._running[number]
        now = time.monotonic()
        count = request.max_tokens
        if finish == "abort":
            count = min(count, max(0, int((now - read) / self._decode_seconds)))
        ids = array("i", ((number * 7919 + i * 31) % 6000 + 1000 for i in range(count)))
        if self._marker is not None and count > 2:
            ids[count // 2] = self._marker
        with self._lock:
            self._remember(request.ids + ids[:-1])
        return Generated(
            ids=ids,
            finish=finish,
            prompt=prompt,
            cached=cached,
            queued=begin - started,
            first=first - started if count else 0.0,
            decode=max(0.0, now - first) if count else 0.0,
            seconds=now - started,
            gpu_seconds=(prompt - cached) / self._prefill_rate,
        )

    def _wait(self, until: float, end: float, cancel: Event | None) -> Finish:
        while (left := until - time.monotonic()) > 0:
            if not self.alive:
                raise ModelUnavailable("the engine was shut down")
            if cancel is not None and cancel.is_set():
                return "abort"
            (cancel or self._dead).wait(min(left, 0.02))
        return "length" if until >= end else "abort"

    def _remember(self, ids: array[int]) -> int:
        """Tokens of `ids` that the memory held, in whole blocks from the start; afterwards it holds them all."""
        size, key, cached, hit = self.facts.block_size, 0, 0, True
        for start in range(0, len(ids) - size + 1, size):
            key = hash((key, ids[start : start + size].tobytes()))
            hit = hit and key in self._blocks and start + size < len(ids)
            cached += size if hit else 0
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) * size > self.facts.kv_tokens:
            self._blocks.popitem(last=False)
        return cached
