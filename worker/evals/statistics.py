"""What few instances can tell: rates with Wilson's intervals, differences by a paired bootstrap."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.evals.results import Result

_Z = 1.959964  # 95 %
_SEED = 20240
_RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; the interval is None where there is nothing to take one from."""

    value: float
    low: float | None = None
    high: float | None = None


def rate(successes: int, of: int) -> Estimate:
    """Wilson's interval: it also means something at 0 and at all."""
    if of == 0:
        return Estimate(0.0)
    p = successes / of
    middle = (p + _Z**2 / (2 * of)) / (1 + _Z**2 / of)
    half = _Z / (1 + _Z**2 / of) * math.sqrt(p * (1 - p) / of + _Z**2 / (4 * of**2))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half))


def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of b - a over pairs, resampled with a fixed seed: the same figures give the same interval."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are no pairs")
    if not a:
        return Estimate(0.0)
    gaps = [second - first for first, second in zip(a, b, strict=True)]
    random_numbers = random.Random(_SEED)  # noqa: S311 - a resampling, no secret
    means = sorted(sum(random_numbers.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(_RESAMPLES))
    cut = int(_RESAMPLES * 0.025)
    return Estimate(sum(gaps) / len(gaps), means[cut], means[-cut - 1])


MEASURES: tuple[tuple[str, Callable[[Result], float]], ...] = (
    ("resolved", lambda r: float(r.resolved)),
    ("steps", lambda r: float(r.steps)),
    ("tokens", lambda r: float(r.usage.prompt + r.usage.completion)),
    ("cost in USD", lambda r: r.usd),
    ("seconds", lambda r: r.seconds),
    ("malformed calls", lambda r: float(sum(r.telemetry.malformed.values()))),
    ("edits that missed", lambda r: float(r.telemetry.missed_edits)),
    ("commands that took too long", lambda r: float(sum(r.telemetry.timed_out.values()))),
    ("new beginnings", lambda r: float(r.telemetry.compactions)),
    ("stuck", lambda r: float(r.telemetry.stuck)),
)


@dataclass(frozen=True)
class Comparison:
    """Of the instances that both have. `rows`: measure, mean of A, mean of B, the difference."""

    pairs: int
    only: tuple[int, int]
    rates: tuple[Estimate, Estimate]
    rows: tuple[tuple[str, float, float, Estimate], ...]
    won: tuple[str, ...]
    lost: tuple[str, ...]


def compare(first: Sequence[Result], second: Sequence[Result]) -> Comparison:
    a, b = ({result.instance_id: result for result in results} for results in (first, second))
    both = sorted(a.keys() & b.keys())
    rows = []
    for name, measure in MEASURES:
        left, right = [measure(a[i]) for i in both], [measure(b[i]) for i in both]
        count = max(len(both), 1)
        rows.append((name, sum(left) / count, sum(right) / count, difference(left, right)))
    return Comparison(
        pairs=len(both),
        only=(len(a) - len(both), len(b) - len(both)),
        rates=(
            rate(sum(a[i].resolved for i in both), len(both)),
            rate(sum(b[i].resolved for i in both), len(both)),
        ),
        rows=tuple(rows),
        won=tuple(i for i in both if b[i].resolved and not a[i].resolved),
        lost=tuple(i for i in both if a[i].resolved and not b[i].resolved),
    )
