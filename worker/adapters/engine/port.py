"""What the rest of the service knows of an inference engine: token ids in, token ids out, and where the time went.

Blocking calls from many threads; continuous batching is the engine's own business behind them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from threading import Event
from typing import Literal, Protocol

Finish = Literal["stop", "length", "abort"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation. `ids`: the whole prompt, array("i"). `listed`: the same as a list, where the caller has one that
    grew with its history: making one of 100,000 ids takes milliseconds. Neither may be changed while the call lasts."""

    ids: array[int]
    listed: list[int] | None = field(default=None, repr=False, compare=False)
    max_tokens: int
    temperature: float = 0.2
    stop: tuple[int, ...] = ()  #: token ids that end the answer; the one that did is its last token
    grammar: str | None = None  #: what the answer must match, in the engine's grammar language (Lark)
    exactly: bool = False  #: benchmarks: go on to `max_tokens`, whatever is generated

    def as_list(self) -> list[int]:
        """The prompt, as an engine takes it; not to be changed."""
        return self.ids.tolist() if self.listed is None else self.listed


@dataclass(frozen=True, kw_only=True)
class Generated:
    """An answer. Times are seconds; where a call was aborted before its first token, `first` and `decode` are 0."""

    ids: array[int]
    finish: Finish
    prompt: int  #: tokens
    cached: int  #: of `prompt`, not computed again
    queued: float  #: in the engine, before it was first scheduled
    first: float  #: from submission to the first token
    decode: float  #: from the first token to the last
    seconds: float  #: from submission to the end, at the caller
    gpu_seconds: float  #: its share of the engine's time; those of all calls, failed ones too, add up to its busy time


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine turned out to be, once it is up."""

    engine: str  #: name and version
    architecture: str  #: as resolved
    kv_tokens: int  #: that its KV memory holds
    block_size: int  #: tokens
    max_model_len: int  #: tokens of one context, the answer included
    max_num_seqs: int
    start_seconds: float
    gpus: int = 1  #: that it is spread over
    host_kv_tokens: int = 0  #: that the tier behind it holds, in the host's memory


@dataclass(frozen=True, kw_only=True)
class EngineLoad:
    """What an engine does now, by its own last report."""

    running: int
    waiting: int
    kv_used: float  #: of 1
    busy_seconds: float  #: since its start, with at least one call in flight
    idle_seconds: float
    failed_gpu_seconds: float = 0.0  #: shares of calls that got no answer: nobody is booked for them


class Engine(Protocol):
    @property
    def facts(self) -> EngineFacts: ...

    @property
    def alive(self) -> bool:
        """False once no call can succeed any more."""

    def load(self) -> EngineLoad: ...

    def generate(self, request: Request, *, deadline: float, cancel: Event | None = None) -> Generated:
        """Blocks until the answer is whole. Past `deadline` (time.monotonic()), or once `cancel` is set, the call is
        aborted within a fraction of a second, its memory is free again, and what was generated comes back with
        finish "abort". Raises ModelUnavailable when the engine died or hangs, ModelRejected for a prompt that does not
        fit or a grammar it can't take."""

    def shutdown(self) -> None:
        """Ends it and all its processes; calls in flight raise ModelUnavailable. Again: nothing happens."""
