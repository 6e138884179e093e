"""What constrained decoding costs: the same prompts and lengths, free and held to a call of one of the tools."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from worker.adapters.engine.port import Engine, Generated, Request
from worker.bench.serve import CALL_SECONDS, Prompts


def measure(engine: Engine, grammar: str, *, concurrency: int, tokens: int, prompts: Prompts) -> dict[str, Any]:
    """`tokens`: of each answer, at most: a model with random weights seldom ends one sooner. Milliseconds a token, and
    the first token's, which pays for compiling the grammar. Raises ServiceError."""
    asks = prompts.asks(concurrency, "constrained", 2 * concurrency)
    free = [Request(ids=ask.ids, max_tokens=tokens, exactly=True) for ask in asks]
    held = [replace(request, ids=_other(request.ids), grammar=grammar, exactly=False) for request in free]
    found: dict[str, Any] = {"benchmark": "constrained", "max_concurrency": concurrency, "tokens": tokens}
    for name, requests in (("free", free), ("constrained", held)):
        seconds, answers = _all(engine, requests, concurrency)
        generated = sum(len(answer.ids) for answer in answers)
        found[name] = {
            "output_throughput": generated / seconds,
            "generated": generated,
            "ttft_ms": 1000 * statistics.fmean(answer.first for answer in answers),
            "tpot_ms": 1000 * sum(answer.decode for answer in answers) / max(1, generated - len(answers)),
        }
    found["tpot_ratio"] = found["constrained"]["tpot_ms"] / found["free"]["tpot_ms"]
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """A row per concurrency."""
    rows = ["| at once | free, ms a token | constrained, ms a token | ratio | first token, ms: free | constrained |"]
    rows.append("|---:|---:|---:|---:|---:|---:|")
    for one in found:
        free, held = one["free"], one["constrained"]
        rows.append(
            f"| {one['max_concurrency']} | {free['tpot_ms']:.2f} | {held['tpot_ms']:.2f} | {one['tpot_ratio']:.3f} "
            f"| {free['ttft_ms']:.1f} | {held['ttft_ms']:.1f} |"
        )
    return "\n".join(rows)


def _other(ids: array[int]) -> array[int]:
    """As long, and in no cache."""
    return array("i", reversed(ids))


def _all(engine: Engine, requests: Sequence[Request], concurrency: int) -> tuple[float, list[Generated]]:
    def one(request: Request) -> Generated:
        return engine.generate(request, deadline=time.monotonic() + CALL_SECONDS)

    one(replace(requests[0], max_tokens=2))  # compiles
    with ThreadPoolExecutor(concurrency) as pool:
        started = time.monotonic()
        answers = list(pool.map(one, requests))
    return time.monotonic() - started, answers
