"""A simulated engine: what vLLM's scheduler does with KV blocks, and how long its steps took on one H100.

No figure of it is a measurement. It answers one question: how a rule for who may call, and when, does against another
on the same plans, in minutes and without a GPU. Deterministic: it runs in virtual time (`virtual_time.py`).

Steps: all sequences that decode get a token each, and what is left of the token budget goes to prompts, in the order in
which they came; the first that does not fit holds up the others. Where a running sequence needs a block and none is
free, the one that began last is taken off, and begins again at the head of the queue. What the host's tier has of a
prompt is copied back first, beside the steps.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from dataclasses import dataclass, field

from worker.adapters.engine.host import BadRequest, Raw, Report
from worker.adapters.engine.port import EngineFacts, EngineLoad, Finish, Request
from worker.bench.virtual_memory import Holding, Memory, Name, names


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds. Fitted to the points of calls 1 to 11 in docs/benchmarks/engine (time a token, sequences that decode,
    their contexts, prompt tokens computed a second): the time a token of each is met within 5 %."""

    step: float = 9.9e-3
    sequence: float = 2e-5  #: for each that decodes
    read: float = 3.3e-8  #: for each token of context that one of them reads
    read_long: float = 0.0  #: on top, where contexts have `LONG` tokens or more; in proportion below
    compute: float = 4e-5  #: for each prompt token
    compute_context: float = 7e-10  #: for each prompt token, and each token before it
    host_tokens: float = 4e5  #: tokens a second between the host and the GPU

    def of(self, contexts: list[int], prompts: list[tuple[int, int]]) -> float:
        """A step. `contexts`: tokens of each sequence that decodes; `prompts`: new tokens, and those before them."""
        read = sum(tokens * (self.read + self.read_long * min(1.0, tokens / LONG)) for tokens in contexts)
        computed = sum(new * (self.compute + self.compute_context * before) for new, before in prompts)
        return self.step + self.sequence * len(contexts) + read + computed


LONG = 48_000
SPEED = Speed(read_long=9e-9)
FINER_SPLITS = Speed()  # with the change to attention that call 11 made


@dataclass(eq=False, kw_only=True)
class _Sequence:
    prompt: int
    ids: array[int]  # the answer included
    blocks: list[Name]
    done: asyncio.Future[Finish]
    came: float
    holding: Holding = field(default_factory=Holding)
    computed: int = 0
    known: int = 0  # of `computed`, found rather than computed, when it was first scheduled
    generated: int = 0
    named: int = 0  # of its blocks, full and told to the memory
    scheduled: float = -1.0
    first: float = -1.0
    last: float = -1.0
    ready: float = 0.0  # when what the host's tier had is there
    loaded: bool = False

    @property
    def target(self) -> int:
        """Tokens that have to be computed before the next one comes out."""
        return self.prompt + self.generated

    @property
    def answer(self) -> int:
        return len(self.ids) - self.prompt


class VirtualBackend:
    """See `worker.adapters.engine.host.Backend`. `loop`: a `VirtualLoop`."""

    def __init__(
        self, facts: EngineFacts, speed: Speed, loop: asyncio.AbstractEventLoop, *, budget: int = 2048
    ) -> None:
        """`budget`: tokens of one step."""
        self.facts = facts
        self.report = Report()
        self.dead = False
        self.taken_off = 0  # sequences that had to begin again
        self.memory = Memory(gpu=facts.kv_tokens // facts.block_size, host=facts.host_kv_tokens // facts.block_size)
        self._speed, self._budget = speed, budget
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()
        self._named: dict[str, _Sequence] = {}
        self._token = 0
        self._link_free = 0.0
        self._came = asyncio.Event()
        self._loop = loop
        self.steps = self._loop.create_task(self._work())  # ends by an error only

    async def run(self, name: str, request: Request) -> Raw:
        if len(request.ids) + request.max_tokens > self.facts.max_model_len:
            raise BadRequest(f"{len(request.ids)} tokens and {request.max_tokens} do not fit")
        # No two answers have a token in common: nobody finds another's in the cache.
        answer = array("i", range(1_000_000_000 + self._token, 1_000_000_000 + self._token + request.max_tokens))
        self._token += request.max_tokens
        ids = request.ids + answer
        one = _Sequence(
            prompt=len(request.ids),
            ids=ids,
            blocks=names(ids[:-1], self.facts.block_size),
            done=self._loop.create_future(),
            came=self._loop.time(),
        )
        self._named[name] = one
        self._waiting.append(one)
        self._came.set()
        finish = await one.done
        del self._named[name]
        return Raw(
            ids=answer[: one.generated],
            finish=finish,
            prompt=one.prompt,
            cached=one.known,
            queued=max(0.0, one.scheduled - one.came),
            first=max(0.0, one.first - one.came),
            decode=max(0.0, one.last - one.first),
        )

    async def abort(self, name: str) -> None:
        if (one := self._named.get(name)) is not None and not one.done.done():
            self._end(one, "abort")

    def close(self) -> None:
        self.steps.cancel()

    def load(self) -> EngineLoad:
        return EngineLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_used=self.memory.used,
            busy_seconds=self._loop.time(),
            idle_seconds=0.0,
        )

    async def _work(self) -> None:
        while True:
            work = self._schedule()
            if not work:
                self._came.clear()
                loading = [one.ready for one in self._waiting if one.loaded and one.ready > self._loop.time()]
                if loading:
                    await asyncio.sleep(max(1e-4, min(loading) - self._loop.time()))
                elif self._waiting:
                    raise RuntimeError("a prompt is larger than the whole memory")
                else:
                    await self._came.wait()
                continue
            decoding = [one.target for one, tokens in work if tokens == 1 and one.generated]
            prompts = [(tokens, one.computed) for one, tokens in work if not (tokens == 1 and one.generated)]
            await asyncio.sleep(self._speed.of(decoding, prompts))
            self.report.steps += 1
            for one, tokens in work:
                if not one.done.done():
                    self._advance(one, tokens)

    def _schedule(self) -> list[tuple[_Sequence, int]]:
        """Who gets how many tokens in the next step."""
        budget, taken_off = self._budget, False
        work: dict[_Sequence, int] = {}
        for one in list(self._running):
            if one not in self._running:
                continue  # taken off for one before it
            tokens = min(one.target - one.computed, budget)
            while tokens and not self._room(one, one.computed + tokens):
                last = self._running.pop()
                budget += work.pop(last, 0)
                self._take_off(last)
                taken_off = True
                if last is one:
                    break
            else:
                if tokens:
                    work[one] = tokens
                    budget -= tokens
        while self._waiting and budget and not taken_off and len(self._running) < self.facts.max_num_seqs:
            here = next((one for one in self._waiting if one.ready <= self._loop.time()), None)
            if here is None or not self._begin(here):
                break
            if here.ready > self._loop.time():
                continue  # it is being copied; the next one may go
            self._waiting.remove(here)
            self._running.append(here)
            tokens = min(here.target - here.computed, budget)
            if not self._room(here, here.computed + tokens):
                raise RuntimeError("room that was there is gone")
            work[here] = tokens
            budget -= tokens
        return list(work.items())

    def _begin(self, one: _Sequence) -> bool:
        """Whether there is room for all of its prompt; then what is known of it is its own."""
        if one.loaded:
            return True
        size = self.facts.block_size
        wanted = one.blocks[: (one.target - 1) // size]
        here, behind = self.memory.find(wanted)
        need = -(-one.target // size) - here
        if need > self.memory.free - self.memory.idle(wanted[:here]):
            return False
        self.memory.claim(one.holding, wanted[:here])
        self.memory.allocate(one.holding, need)
        one.loaded, one.named = True, here
        one.computed = (here + behind) * size
        if one.scheduled < 0:
            one.scheduled, one.known = self._loop.time(), one.computed
        if behind:
            start = max(self._loop.time(), self._link_free)
            one.ready = self._link_free = start + behind * size / self._speed.host_tokens
        return True

    def _room(self, one: _Sequence, tokens: int) -> bool:
        missing = -(-tokens // self.facts.block_size) - one.holding.blocks
        return missing <= 0 or self.memory.allocate(one.holding, missing)

    def _take_off(self, one: _Sequence) -> None:
        self.memory.release(one.holding)
        one.computed = one.named = 0
        one.loaded = False
        self._waiting.appendleft(one)
        self.taken_off += 1

    def _advance(self, one: _Sequence, tokens: int) -> None:
        one.computed += tokens
        full = one.computed // self.facts.block_size
        self.memory.fill(one.holding, one.blocks[one.named : full])
        one.named = max(one.named, full)
        if one.computed < one.target:
            return
        one.generated += 1
        now = self._loop.time()
        one.first = now if one.first < 0 else one.first
        one.last = now
        if one.generated >= one.answer:
            self._end(one, "length")

    def _end(self, one: _Sequence, finish: Finish) -> None:
        if one in self._running:
            self._running.remove(one)
        else:
            self._waiting.remove(one)
        self.memory.release(one.holding)
        one.done.set_result(finish)
        self._came.set()
