"""An engine that gives back answers it was told."""

from __future__ import annotations

import itertools
from array import array
from threading import Event

from worker.adapters.engine.port import EngineFacts, EngineLoad, Finish, Generated, Request


class AnsweringEngine:
    """Each call gets the next answer's token ids, the last one for ever."""

    facts = EngineFacts(
        engine="fake 1",
        architecture="none",
        kv_tokens=1 << 20,
        block_size=16,
        max_model_len=32_768,
        max_num_seqs=8,
        start_seconds=0.0,
    )
    alive = True

    def __init__(self, answers: list[list[int]], *, finish: Finish = "stop") -> None:
        self.answers = answers
        self.finish = finish
        self.requests: list[Request] = []
        self._next = itertools.chain(answers, itertools.repeat(answers[-1]))

    def load(self) -> EngineLoad:
        return EngineLoad(running=0, waiting=0, kv_used=0.0, busy_seconds=0.0, idle_seconds=0.0)

    def generate(self, request: Request, *, deadline: float, cancel: Event | None = None) -> Generated:
        self.requests.append(request)
        return Generated(
            ids=array("i", next(self._next)),
            finish=self.finish,
            prompt=len(request.ids),
            cached=0,
            queued=0.0,
            first=0.0,
            decode=0.0,
            seconds=0.0,
            gpu_seconds=0.0,
        )

    def shutdown(self) -> None:
        pass
