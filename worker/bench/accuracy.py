"""`bench accuracy`: the share of a file's problems that a model solves, and how long it takes."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event
from typing import Any

from agent.errors import LimitsExceeded
from agent.protocols import Model
from agent.types import FinishReason, Sampling, UserMessage
from worker.bench import records
from worker.bench.gsm8k import SHOTS, Data, Problem, answered, prompt
from worker.errors import ModelRejected, ModelUnavailable, ServiceError

MOST = 512  # completion tokens of an answer, as SGLang's benchmark has it
CALL_SECONDS = 900.0
PUBLISHED = {"accuracy": 0.922, "invalid": 0.0}
"""What is published for Devstral 2 on GSM8K; not measured by us."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`found`: None where the answer has no number."""

    problem: Problem
    text: str
    found: Decimal | None
    finish: FinishReason
    completion: int  #: tokens
    seconds: float

    @property
    def right(self) -> bool:
        return self.found == self.problem.number


def measure(model: Model, data: Data, *, limit: int | None, concurrency: int) -> dict[str, Any]:
    """The first `limit` problems, `concurrency` at once. A request that failed is counted and not scored; raises the
    first one's error when none was answered."""
    todo = data.problems[:limit]
    failures: list[ServiceError] = []
    lock, cancel = threading.Lock(), Event()

    def one(problem: Problem) -> Answer | None:
        try:
            return _ask(model, data.examples, problem, cancel)
        except ServiceError as error:
            with lock:
                failures.append(error)
            return None

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            answers = [answer for answer in pool.map(one, todo) if answer is not None]
        except BaseException:  # a person's ^C: nobody waits for what was asked
            cancel.set()
            pool.shutdown(cancel_futures=True)
            raise
    seconds = time.perf_counter() - started
    if not answers:
        raise failures[0]
    return figures(answers, seconds) | {
        "model": model.label,
        "file_sha256": data.sha256,
        "shots": SHOTS,
        "concurrency": concurrency,
        "failures": dict(Counter(type(error).__name__ for error in failures)),
        "published": PUBLISHED,
        "machine": records.machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "answers": [_record(answer) for answer in answers],
    }


def _ask(model: Model, examples: Sequence[Problem], problem: Problem, cancel: Event) -> Answer:
    with closing(model.open("", ())) as conversation:
        conversation.add([UserMessage(content=prompt(examples, problem))])
        sampling = Sampling(temperature=0.0, max_tokens=MOST)
        try:
            done = conversation.complete(sampling, deadline=time.monotonic() + CALL_SECONDS, cancel=cancel)
        except LimitsExceeded as error:
            raise ModelRejected(f"line {problem.line}: {error}") from error
    if done.finish_reason == "abort":
        raise ModelUnavailable(f"line {problem.line}: no whole answer within {CALL_SECONDS:g} s")
    text = done.message.content
    return Answer(
        problem=problem,
        text=text,
        found=answered(text),
        finish=done.finish_reason,
        completion=done.usage.completion,
        seconds=done.seconds,
    )


def figures(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Shares are of the answers; `seconds`: wall time of all of them. An answer without a number is wrong, too."""
    times, tokens = [answer.seconds for answer in answers], sum(answer.completion for answer in answers)
    return {
        "benchmark": "accuracy",
        "answered": len(answers),
        "accuracy": sum(answer.right for answer in answers) / len(answers),
        "invalid": sum(answer.found is None for answer in answers) / len(answers),
        "cut": sum(answer.finish == "length" for answer in answers) / len(answers),
        "latency_seconds": {
            "mean": statistics.fmean(times),
            "p50": records.percentile(times, 0.5),
            "p99": records.percentile(times, 0.99),
        },
        "duration": seconds,
        "output_tokens": tokens,
        "output_throughput": tokens / seconds,
    }


def _record(answer: Answer) -> dict[str, Any]:
    return {
        "line": answer.problem.line,
        "expected": str(answer.problem.number),
        "found": None if answer.found is None else str(answer.found),
        "right": answer.right,
        "finish_reason": answer.finish,
        "completion": answer.completion,
        "seconds": answer.seconds,
        "text": answer.text,
    }


def table(found: dict[str, Any]) -> str:
    """Beside what was published, of which a file that is not GSM8K's says nothing."""
    latency = found["latency_seconds"]
    rows = [
        ("figure", "measured", "published, Devstral 2 on GSM8K"),
        ("---", "---:", "---:"),
        ("Accuracy", f"{found['accuracy']:.3f}", f"{PUBLISHED['accuracy']:.3f}"),
        ("Invalid (no number)", f"{found['invalid']:.3f}", f"{PUBLISHED['invalid']:.3f}"),
        (f"Cut at {MOST} tokens", f"{found['cut']:.3f}", ""),
        ("Answered", str(found["answered"]), ""),
        ("Failed requests", str(sum(found["failures"].values())), ""),
        ("Latency mean (s)", f"{latency['mean']:.2f}", ""),
        ("Latency p50 (s)", f"{latency['p50']:.2f}", ""),
        ("Latency p99 (s)", f"{latency['p99']:.2f}", ""),
        ("Output tokens/s", f"{found['output_throughput']:.1f}", ""),
    ]
    head = f"{found['model']}; {SHOTS}-shot, {found['concurrency']} at once"
    return "\n".join([head, *("| " + " | ".join(row) + " |" for row in rows)])
