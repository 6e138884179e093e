"""`bench serve`: random prompts of 1..1000 tokens and answers of 1..1000, so many at a time, with the figures that
SGLang's bench_serving prints; on an engine in this process or any OpenAI-compatible server."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Protocol, Self

from worker.adapters.engine.host import Raw
from worker.adapters.engine.port import Engine, Request
from worker.bench import records
from worker.errors import ModelUnavailable, ServiceError

LONGEST = 1000  # tokens, of a prompt and of an answer
CALL_SECONDS = 900.0
WARM = 4  # requests before the clock runs


@dataclass(frozen=True)
class Ask:
    ids: array[int]
    answer: int  #: tokens


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Seconds. `gaps`: between the pieces of an answer as they came; empty where only its ends are known."""

    prompt: int
    generated: int
    first: float
    seconds: float
    tpot: float | None  #: None for an answer of one token
    gaps: tuple[float, ...] = ()


class Target(Protocol):
    @property
    def label(self) -> str: ...

    def ask(self, ask: Ask) -> Answered:
        """Raises ServiceError."""


class InProcess:
    """An engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.label = engine.facts.engine

    def ask(self, ask: Ask) -> Answered:
        got = self._engine.generate(
            Request(ids=ask.ids, max_tokens=ask.answer, exactly=True),
            deadline=time.monotonic() + CALL_SECONDS,
            cancel=Event(),
        )
        if got.finish == "abort":
            raise ModelUnavailable(f"no whole answer within {CALL_SECONDS:g} s")
        count = len(got.ids)
        tpot = got.decode / (count - 1) if count > 1 else None
        return Answered(prompt=got.prompt, generated=count, first=got.first, seconds=got.seconds, tpot=tpot)


class Bare(Protocol):
    """What an engine does without this service's part: what ours is held against."""

    def bare(self, requests: Sequence[Request], *, concurrency: int) -> tuple[float, list[Raw]]:
        """Seconds for all, and each."""


class Server:
    """An OpenAI-compatible server; prompts go as token ids, answers are streamed."""

    def __init__(self, url: str, model: str, *, api_key: str = "none") -> None:
        import openai  # noqa: PLC0415  # not where only an engine is measured

        self._client = openai.OpenAI(base_url=url, api_key=api_key, timeout=CALL_SECONDS, max_retries=0)
        self._error: type[Exception] = openai.OpenAIError
        self._model = model
        self.label = f"{model} at {url}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def ask(self, ask: Ask) -> Answered:
        started = time.perf_counter()
        came: list[float] = []
        usage: Any = None
        try:
            stream = self._client.completions.create(
                model=self._model,
                prompt=list(ask.ids),
                max_tokens=ask.answer,
                temperature=0.2,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            for event in stream:
                usage = event.usage or usage
                if event.choices and (event.choices[0].text or event.choices[0].finish_reason is None):
                    came.append(time.perf_counter())
        except self._error as error:
            raise ModelUnavailable(f"{self.label}: {error}") from error
        ended = time.perf_counter()
        if usage is None:
            raise ModelUnavailable(f"{self.label} told no usage")
        first, last = (came[0], came[-1]) if came else (ended, ended)
        count = int(usage.completion_tokens)
        return Answered(
            prompt=int(usage.prompt_tokens),
            generated=count,
            first=first - started,
            seconds=ended - started,
            tpot=(last - first) / (count - 1) if count > 1 else None,
            gaps=tuple(b - a for a, b in itertools.pairwise(came)),
        )


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Random ones; lengths uniform in 1..1000."""

    seed: int = 0
    count: int | None = None  #: per concurrency; None: four times it, at least 32
    first_id: int = 1000  #: ids below are the wire format's
    vocabulary: int = 8192  #: ids below it are used

    def asks(self, concurrency: int, salt: str, count: int | None = None) -> list[Ask]:
        """The same lengths for another `salt`, of other tokens: none is in a cache."""
        lengths = random.Random(f"{self.seed}:{concurrency}")  # noqa: S311 - filler
        source = random.Random(f"{self.seed}:{concurrency}:{salt}")  # noqa: S311 - filler
        return [
            Ask(
                array("i", source.choices(range(self.first_id, self.vocabulary), k=lengths.randint(1, LONGEST))),
                lengths.randint(1, LONGEST),
            )
            for _ in range(count or self.count or max(32, 4 * concurrency))
        ]


def measure(target: Target, concurrency: int, prompts: Prompts, *, bare: Bare | None = None) -> dict[str, Any]:
    """All prompts, `concurrency` of them in flight while there are so many left; then, with `bare`, the same lengths
    there. Raises ModelUnavailable when none was answered."""
    warm, todo = prompts.asks(concurrency, "warm", min(WARM, concurrency)), prompts.asks(concurrency, "measured")
    failures: Counter[str] = Counter()
    lock, reasons = threading.Lock(), []

    def one(ask: Ask) -> Answered | None:
        try:
            return target.ask(ask)
        except ServiceError as error:
            with lock:
                failures[type(error).__name__] += 1
                reasons.append(str(error))
            return None

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(target.ask, warm))
        started = time.perf_counter()
        answers = [answer for answer in pool.map(one, todo) if answer is not None]
        seconds = time.perf_counter() - started
    if not answers:
        raise ModelUnavailable(f"no request was answered: {reasons[0]}")
    found = figures(answers, seconds, concurrency=concurrency)
    if bare is not None:
        requests = [
            Request(ids=ask.ids, max_tokens=ask.answer, exactly=True) for ask in prompts.asks(concurrency, "bare")
        ]
        bare_seconds, raws = bare.bare(requests, concurrency=concurrency)
        found["bare_output_throughput"] = sum(len(raw.ids) for raw in raws) / bare_seconds
        found["of_bare"] = found["output_throughput"] / found["bare_output_throughput"]
    return found | {
        "target": target.label,
        "prompts": len(todo),
        "seed": prompts.seed,
        "failures": dict(failures),
        "machine": records.machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def figures(answers: Sequence[Answered], seconds: float, *, concurrency: int) -> dict[str, Any]:
    """Rates per second; times in milliseconds, as bench_serving has them."""
    prompt, generated = sum(a.prompt for a in answers), sum(a.generated for a in answers)
    return {
        "benchmark": "serve",
        "max_concurrency": concurrency,
        "completed": len(answers),
        "duration": seconds,
        "total_input_tokens": prompt,
        "total_output_tokens": generated,
        "request_throughput": len(answers) / seconds,
        "input_throughput": prompt / seconds,
        "output_throughput": generated / seconds,
        "total_throughput": (prompt + generated) / seconds,
        "concurrency": sum(a.seconds for a in answers) / seconds,
        "e2e_latency_ms": _spread([a.seconds for a in answers]),
        "ttft_ms": _spread([a.first for a in answers]),
        "tpot_ms": _spread([a.tpot for a in answers if a.tpot is not None]),
        "itl_ms": _spread([gap for a in answers for gap in a.gaps]),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "p99": records.percentile(values, 0.99),
    }
    return {name: 1000 * value for name, value in found.items()}


_PLAIN = (
    ("Successful requests", "completed", "{}"),
    ("Failed requests", "failures", "{}"),
    ("Benchmark duration (s)", "duration", "{:.2f}"),
    ("Total input tokens", "total_input_tokens", "{}"),
    ("Total generated tokens", "total_output_tokens", "{}"),
    ("Request throughput (req/s)", "request_throughput", "{:.2f}"),
    ("Input token throughput (tok/s)", "input_throughput", "{:.2f}"),
    ("Output token throughput (tok/s)", "output_throughput", "{:.2f}"),
    ("Total token throughput (tok/s)", "total_throughput", "{:.2f}"),
    ("Concurrency", "concurrency", "{:.2f}"),
)
_BARE = (
    ("The bare engine's output throughput (tok/s)", "bare_output_throughput", "{:.2f}"),
    ("Output throughput, of the bare engine's", "of_bare", "{:.3f}"),
)
_SPREADS = (("E2E latency", "e2e_latency_ms"), ("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("ITL", "itl_ms"))


def table(found: Sequence[dict[str, Any]]) -> str:
    """A column per concurrency."""
    rows = [["concurrency", *(str(f["max_concurrency"]) for f in found)], ["---", *("---:" for _ in found)]]
    for label, key, shape in _PLAIN:
        values = [sum(f[key].values()) if key == "failures" else f[key] for f in found]
        rows.append([label, *(shape.format(value) for value in values)])
    for label, key, shape in _BARE:
        if all(key in f for f in found):
            rows.append([label, *(shape.format(f[key]) for f in found)])
    for label, key in _SPREADS:
        if all(f[key] is None for f in found):
            continue
        for part in ("mean", "median", "p99"):
            cells = ("" if f[key] is None else f"{f[key][part]:.2f}" for f in found)
            rows.append([f"{part[0].upper()}{part[1:]} {label} (ms)", *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if any(f["itl_ms"] is None for f in found):
        lines.append("ITL is left out: the engine in this process tells when an answer's first and last token came.")
    return "\n".join(lines)


def keep(found: Sequence[dict[str, Any]], out: Path, config: dict[str, Any], engine: Engine | None) -> None:
    """A line for each concurrency in `out`/serve.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    facts = None if engine is None else asdict(engine.facts)
    with (out / "serve.jsonl").open("a", encoding="utf-8") as file:
        for one in found:
            file.write(json.dumps(one | {"config": config, "engine": facts}) + "\n")
