"""The `vllm:` model: conversations as token ids, on an engine in this process.

A history is appended to, never encoded anew, and an answer is kept as it was generated: the next call's prompt begins
with the very tokens whose KV memory the engine still holds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event

from agent.generated import GeneratedIds
from agent.tokens import TokenCounter, TokenizerUnusable
from agent.types import AssistantMessage, CallTimes, Completion, Input, Sampling, ToolSpec, Usage
from agent.wire import CallIds
from worker.adapters.engine.admission import KvAdmission
from worker.adapters.engine.answer import AnswerReader, Read
from worker.adapters.engine.grammar import Marks, one_of
from worker.adapters.engine.port import Engine, Generated, Request
from worker.errors import SettingsError

Told = Callable[[str, Usage, CallTimes], None]
"""Of a call that the engine answered: the model's label, what it used, where its time went."""


def nobody(_model: str, _usage: Usage, _times: CallTimes) -> None:
    """A `Told` that is not interested."""


class EngineModel:
    """A model on an engine; safe for threads. `close` shuts the engine down."""

    def __init__(
        self,
        engine: Engine,
        counter: TokenCounter,
        name: str,
        *,
        revision: str = "",
        admission: KvAdmission | None = None,
        forced: Sequence[str] = (),
        told: Told = nobody,
    ) -> None:
        """`name`: what people call the model. `revision`: which weights it has. `admission`: whose turns its calls wait
        for; None: nobody's. `forced`: grammars (`worker.adapters.engine.grammar`) of each conversation's first answers,
        so that a model without sense does something sensible in a test; what it then did is labelled so. `told` is told
        of every call that the engine answered. SettingsError when the vocabulary can't be used."""
        self.engine = engine
        self.admission = admission
        self.forced = tuple(forced)
        self.told = told
        self.counter = counter
        self.name = name
        self.revision = revision
        try:
            self.reader = AnswerReader(counter.load())
            self.vocabulary = counter.vocabulary
        except TokenizerUnusable as error:
            raise SettingsError(str(error)) from error
        # One object for each token: a list of ids then takes 8 bytes for one, not 36.
        self.numbers = tuple(range(self.reader.vocabulary_size))
        self._lock = threading.Lock()
        self._repairs: Counter[str] = Counter()
        self._answers = 0

    @property
    def label(self) -> str:
        weights = f"; weights {self.revision}" if self.revision else ""
        return f"vllm:{self.name} ({self.engine.facts.engine}{weights}{'; forced' * bool(self.forced)})"

    @property
    def tokenizer(self) -> str:
        return self.counter.label

    @property
    def identity(self) -> str:
        weights = f"@{self.revision}" if self.revision else ""
        return f"vllm:{self.name}{weights}{':forced' * bool(self.forced)}"

    @property
    def alive(self) -> bool:
        return self.engine.alive

    @property
    def window(self) -> int:
        return self.engine.facts.max_model_len

    @property
    def lacking(self) -> tuple[str, ...]:
        return ()

    @property
    def repairs(self) -> tuple[int, Counter[str]]:
        """Answers so far, and how often each kind of repair was needed."""
        with self._lock:
            return self._answers, Counter(self._repairs)

    def close(self) -> None:
        self.engine.shutdown()

    def open(self, system: str, tools: Sequence[ToolSpec]) -> EngineConversation:
        return EngineConversation(self, system, tools)

    def beside(self, system: str, tools: Sequence[ToolSpec] = ()) -> EngineConversation:
        """For a single question, such as one of a triage: it is asked in the gaps that trajectories leave, and pushes
        none of their contexts out."""
        return EngineConversation(self, system, tools, beside=True)

    def count(self, read: Read) -> None:
        with self._lock:
            self._answers += 1
            self._repairs.update(repair.value for repair in read.repairs)


class EngineConversation:
    """See `agent.protocols.Conversation`. `last` is what the engine said of the last call."""

    def __init__(self, model: EngineModel, system: str, tools: Sequence[ToolSpec], *, beside: bool = False) -> None:
        self._model = model
        self._tools = tools
        self._history = model.counter.open(system, tools)
        self._listed: list[int] = []  # the history up to the last call, for the engine
        self._ids = CallIds()
        self._seat = None if model.admission is None else model.admission.seat(beside=beside)
        self._answers = 0
        self._known = 0  # tokens whose KV memory the engine computed for this conversation
        self._before = 0  # tokens whose KV memory was computed for it elsewhere, by whoever it was taken over from
        self.last: Generated | None = None
        self.waited = 0.0  # seconds that the last call waited for its turn
        self._again = 0  # tokens that the last call computed again

    @property
    def tokens(self) -> int:
        return len(self._history)

    def add(self, messages: Sequence[Input]) -> None:
        for message in messages:
            kept = self._history.add(message)
            del self._listed[kept:]

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:
        self._answers += 1
        self._ids.known(answer.tool_calls)
        if generated is not None and generated.vocabulary == self._model.vocabulary:
            self._history.extend(generated.ids())
        else:
            self._history.add(answer)
        self._before = len(self._history)
        if self._seat is not None:
            self._seat.restored = True

    def complete(
        self,
        sampling: Sampling,
        *,
        deadline: float,
        cancel: Event,
        grammar: str | None = None,
        exactly: bool = False,
    ) -> Completion:
        """`grammar`: what the answer has to match. `exactly`: benchmarks generate just `max_tokens`. An aborted answer
        is not appended to the history.

        Raises ModelUnavailable and ModelRejected.
        """
        started = time.monotonic()
        reader = self._model.reader
        request = Request(
            ids=self._history.ids,
            listed=self._grown(),
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            stop=(reader.eos,),
            grammar=grammar if grammar is not None else self._forced(),
            exactly=exactly,
        )
        generated = self.last = self._generate(request, deadline=deadline, cancel=cancel)
        if generated is None:
            return Completion(
                message=AssistantMessage(), usage=Usage(), finish_reason="abort", seconds=time.monotonic() - started
            )
        read = reader.read(generated.ids)
        usage = Usage(
            prompt=generated.prompt,
            cached=min(generated.cached, generated.prompt),
            completion=len(generated.ids),
            gpu_seconds=generated.gpu_seconds,
        )
        times = CallTimes(
            turn=self.waited,
            queued=generated.queued,
            first=generated.first,
            decode=generated.decode,
            again=self._again,
        )
        self._model.told(self._model.label, usage, times)
        if generated.finish == "abort":
            message = AssistantMessage(content=read.content, raw=read.raw)
            seconds = time.monotonic() - started
            return Completion(message=message, usage=usage, finish_reason="abort", seconds=seconds, times=times)
        self._model.count(read)
        self._answers += 1
        ids = generated.ids[:]
        if not ids or ids[-1] != reader.eos:
            ids.append(reader.eos)  # cut at its limit: the format wants every answer closed
        self._history.extend(ids)
        calls = self._ids.number(("", name, arguments) for name, arguments in read.calls)
        message = AssistantMessage(content=read.content, tool_calls=calls, raw=read.raw)
        return Completion(
            message=message,
            usage=usage,
            times=times,
            repairs=tuple(repair.value for repair in read.repairs),
            generated=GeneratedIds.of(ids, self._model.vocabulary),
            finish_reason="length" if generated.finish == "length" else ("tool_calls" if calls else "stop"),
            seconds=time.monotonic() - started,
        )

    def complete_call(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        """See `agent.protocols.CallsForced`."""
        grammar = one_of(self._tools, Marks.of(self._model.reader))
        return self.complete(sampling, deadline=deadline, cancel=cancel, grammar=grammar)

    def _grown(self) -> list[int]:
        numbers = self._model.numbers
        self._listed += [numbers[token] for token in self._history.since(len(self._listed))]
        return self._listed

    def _forced(self) -> str | None:
        forced = self._model.forced
        return forced[self._answers] if self._answers < len(forced) else None

    def _generate(self, request: Request, *, deadline: float, cancel: Event) -> Generated | None:
        """None: cancelled, or late, before it was this call's turn."""
        engine, seat = self._model.engine, self._seat
        self.waited, self._again = 0.0, 0
        if seat is None:
            return engine.generate(request, deadline=deadline, cancel=cancel)
        with seat.turn(request.ids, request.max_tokens, deadline=deadline, cancel=cancel) as waited:
            if waited is None:
                return None
            self.waited = waited
            done = engine.generate(request, deadline=deadline, cancel=cancel)
        # What a takeover costs is computed again, but is no sign that this engine's memory is too full.
        self._again = max(0, self._cacheable(max(self._known, self._before)) - done.cached)
        cacheable = self._cacheable(self._known)
        seat.answered(prompt=done.prompt, cached=done.cached, cacheable=cacheable, completion=len(done.ids))
        self._known = done.prompt + len(done.ids)
        return done

    def _cacheable(self, tokens: int) -> int:
        """A cache of whole blocks never held an answer's last token."""
        block = self._model.engine.facts.block_size
        return max(0, tokens - 1) // block * block

    def close(self) -> None:
        """The engine forgets by itself: blocks that nobody asks for again are the first to go."""
        if self._seat is not None:
            self._seat.close()
