"""An engine that costs nothing, so that what is left of a step is ours: a backend behind the real `EngineHost`, which
answers with given token ids. Satisfies the port (tests/contracts/test_engine_contract.py)."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from worker.adapters.engine.host import BadRequest, EngineHost, Raw, Report
from worker.adapters.engine.port import EngineFacts, Finish, Request

_KEPT = 256  # contexts that its cache remembers
_NOISE = 1000  # a token, where more are asked for than an answer has


class InstantBackend:
    """Remembers whole contexts, and knows of a prompt what the longest of them that it begins with has. `cpu`: seconds
    of CPU time that went into pretending; it is nobody's overhead, and so it is in the times that it tells."""

    dead = False

    def __init__(self, answers: Sequence[array[int]], facts: EngineFacts, *, answer_seconds: float = 0.0) -> None:
        """`answers`: given one after the other, again and again. `answer_seconds`: that one takes; per token where
        a request says exactly how many."""
        self.facts = facts
        self.report = Report()
        self.cpu = 0.0
        self._answers = itertools.cycle(answers)
        self.answer_seconds = answer_seconds
        self._running: dict[str, tuple[asyncio.Event, int]] = {}
        self._contexts: deque[array[int]] = deque(maxlen=_KEPT)

    async def run(self, name: str, request: Request) -> Raw:
        prompt_ids = request.as_list()  # as vLLM's adapter does, so it is no pretending
        mark = time.thread_time()
        prompt = len(prompt_ids)
        if prompt + 1 > self.facts.max_model_len:
            raise BadRequest(f"{prompt} tokens do not fit {self.facts.max_model_len}")
        answer, seconds = next(self._answers), self.answer_seconds
        if request.exactly:
            seconds *= request.max_tokens
            answer = array("i", itertools.islice(itertools.chain(answer, itertools.repeat(_NOISE)), request.max_tokens))
        known = self._longest(request.ids)
        aborted = asyncio.Event()
        self._enter(name, aborted, prompt + len(answer))
        pretending, began = time.thread_time() - mark, time.monotonic()
        try:
            await _wait(aborted, seconds)
        finally:
            self._leave(name)
        passed, mark = time.monotonic() - began, time.thread_time()
        finish: Finish = "length" if len(answer) == request.max_tokens else "stop"
        if aborted.is_set():
            finish, answer = "abort", answer[: max(1, int(len(answer) * passed / max(seconds, passed)))]
        if known in self._contexts:
            self._contexts.remove(known)  # it lives on in this one
        self._contexts.append(request.ids + answer[:-1])
        pretending += time.thread_time() - mark
        self.cpu += pretending
        took = passed + pretending
        return Raw(
            ids=answer,
            finish=finish,
            prompt=prompt,
            cached=len(known) // self.facts.block_size * self.facts.block_size,
            queued=0.0,
            first=took / len(answer),
            decode=took - took / len(answer),
        )

    async def abort(self, name: str) -> None:
        if name in self._running:
            self._running[name][0].set()

    def close(self) -> None:
        """It has no processes."""

    def _enter(self, name: str, aborted: asyncio.Event, tokens: int) -> None:
        self._running[name] = (aborted, tokens)
        self._tell()

    def _leave(self, name: str) -> None:
        del self._running[name]
        self._tell()

    def _tell(self) -> None:
        self.report.steps += 1
        self.report.running = len(self._running)
        self.report.kv_used = sum(tokens for _, tokens in self._running.values()) / self.facts.kv_tokens

    def _longest(self, ids: array[int]) -> array[int]:
        """The longest remembered context that `ids` begins with."""
        best = array("i")
        for known in self._contexts:
            if len(best) < len(known) < len(ids) and ids[len(known) - 1] == known[-1] and ids[: len(known)] == known:
                best = known
        return best


async def _wait(aborted: asyncio.Event, seconds: float) -> None:
    if seconds:
        with suppress(TimeoutError):
            await asyncio.wait_for(aborted.wait(), seconds)


def facts(*, kv_tokens: int, max_model_len: int) -> EngineFacts:
    return EngineFacts(
        engine="instant",
        architecture="none",
        kv_tokens=kv_tokens,
        block_size=16,
        max_model_len=max_model_len,
        max_num_seqs=1024,
        start_seconds=0.0,
    )


def hosted(backend: InstantBackend) -> EngineHost:
    """To be shut down."""

    async def start() -> InstantBackend:
        return backend

    return EngineHost(start)
