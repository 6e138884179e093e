"""What resolving an issue may take, from runs of before; from published sizes where there are too few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.types import Frozen, Price, Usage

ENOUGH = 8  # runs from which on they are asked: of fewer the tenth and the ninetieth percentile say little

# Published runs of both Devstral 2 models on SWE-bench take 77 to 87 calls and hold about 80,000 tokens at their end;
# on the way a context is 47,000 on average. Nobody published how much they differ from issue to issue.
_CALLS = (77, 80, 87)
_HELD, _MEAN_CONTEXT, _GENERATED_A_CALL = 80_000, 47_000, 290


class Past(Frozen):
    """A run that ended, of whatever outcome: it has to be paid for in each case. `usd` at most."""

    steps: int
    usage: Usage
    usd: float


class Range(Frozen):
    """Of past runs a tenth took less than `low`, half less than `middle`, a tenth more than `high`."""

    low: float
    middle: float
    high: float

    def __mul__(self, times: float) -> Range:
        return Range(low=self.low * times, middle=self.middle * times, high=self.high * times)


class Forecast(Frozen):
    """Of one issue. `tokens` are prompt and completion tokens of all its calls; `gpu_seconds` None where no engine
    told them."""

    steps: Range
    tokens: Range
    usd: Range
    gpu_seconds: Range | None
    based_on: str


def forecast(past: Sequence[Past], price: Price, where: str = "this service") -> Forecast:
    """`where` the runs were. `price` is used without enough `past` only: what was spent has its own."""
    if len(past) < ENOUGH:
        return _published(len(past), price)
    told = [run.usage.gpu_seconds for run in past if run.usage.gpu_seconds is not None]
    return Forecast(
        steps=_range([run.steps for run in past]),
        tokens=_range([run.usage.prompt + run.usage.completion for run in past]),
        usd=_range([run.usd for run in past]),
        gpu_seconds=_range(told) if len(told) >= ENOUGH else None,
        based_on=f"{len(past)} runs of {where}",
    )


def total(one: Range, issues: int) -> Range:
    """Of several issues, as if they were independent: their sum varies less than each."""
    low, high = one.middle - one.low, one.high - one.middle
    middle, spread = one.middle * issues, issues**0.5
    return Range(low=max(0.0, middle - low * spread), middle=middle, high=middle + high * spread)


def _published(runs: int, price: Price) -> Forecast:
    steps = Range(low=_CALLS[0], middle=_CALLS[1], high=_CALLS[2])
    usage = Usage(
        prompt=_CALLS[1] * _MEAN_CONTEXT,
        cached=_CALLS[1] * _MEAN_CONTEXT - _HELD,
        completion=_CALLS[1] * _GENERATED_A_CALL,
    )
    one = 1 / _CALLS[1]
    there = f"{runs} of {ENOUGH} runs" if runs else "no runs"
    return Forecast(
        steps=steps,
        tokens=steps * (one * (usage.prompt + usage.completion)),
        usd=steps * (one * price.call(usage)[1]),
        gpu_seconds=None,
        based_on=f"published sizes of benchmark runs: this service has {there} to go by, so the real spread is unknown",
    )


def _range(values: Sequence[float]) -> Range:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return Range(low=float(low), middle=float(middle), high=float(high))
