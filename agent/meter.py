"""What a trajectory has used, against what it may use: steps, tokens, money, time and the model's window."""

from __future__ import annotations

import time

from agent.errors import LimitsExceeded
from agent.types import Limits, Price, Sampling, Usage, Used

MIN_ANSWER = 256  # tokens that must be free in the window for a call to be worth making
NEARLY = 0.85  # of a limit, from which on the model is told to come to an end


class Meter:
    """Runs from its creation, on top of what was `used` before it. A limit that is reached ends the trajectory before
    the next call, so at most one call goes over it."""

    def __init__(self, limits: Limits, price: Price, used: Used) -> None:
        self.limits = limits
        self.price = price
        self._started = time.monotonic() - used.seconds
        self.deadline = self._started + limits.wall_seconds
        self.calls = used.calls
        self.usage = used.usage
        self.usd = used.usd

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, usage: Usage) -> float:
        """Count one call; returns what it cost in USD."""
        cost = self.price.cost(usage)
        self.calls += 1
        self.usage += usage
        self.usd += cost
        return cost

    def next_call(self, context: int, sampling: Sampling, window: int) -> Sampling:
        """How the next call may sample with `context` tokens of history: its answer is shortened to what is free in a
        window of `window` tokens. Raises LimitsExceeded."""
        limits = self.limits
        for name, used, limit in (
            ("steps", self.calls, limits.steps),
            ("tokens", self.usage.prompt + self.usage.completion, limits.tokens),
            ("USD", round(self.usd, 6), limits.usd),
        ):
            if used >= limit:
                raise LimitsExceeded(f"{name}: {used} of {limit} used")
        self.check_time()
        room = window - context
        if room < min(sampling.max_tokens, MIN_ANSWER):
            raise LimitsExceeded(f"context window: {context} of {window} tokens used")
        return sampling.model_copy(update={"max_tokens": min(sampling.max_tokens, room)})

    def nearly_used(self) -> str | None:
        """The first limit of which little is left, in words for the model; None while there is enough of each."""
        limits = self.limits
        tokens = self.usage.prompt + self.usage.completion
        for what, used, limit, unit in (
            ("steps", self.calls, limits.steps, ""),
            ("tokens", tokens, limits.tokens, ""),
            ("money", self.usd, limits.usd, " USD"),
            ("time", self.seconds, limits.wall_seconds, " s"),
        ):
            if used >= NEARLY * limit:
                return f"{what}: {used:.6g} of {limit:g}{unit}"
        return None

    def check_time(self) -> None:
        if time.monotonic() >= self.deadline:
            raise self.time_is_over()

    def time_is_over(self) -> LimitsExceeded:
        return LimitsExceeded(f"wall time: {self.seconds:.1f} s of {self.limits.wall_seconds:g} s used")
