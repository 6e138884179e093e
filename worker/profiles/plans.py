"""What to run on the GPUs there are: two of them, or a node of eight; which figures are measured, which computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worker.adapters.engine.shapes import parameters
from worker.profiles import Profile, profile
from worker.profiles.memory import kv_tokens, refusal

SMALL, LARGE = "small-24b", "large-123b"
NODE = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`engines` engines of one profile, each on `gpus` GPUs. `hourly`: W1 trajectories an hour of all of them; None
    where nothing was measured to compute it from."""

    profile: Profile
    engines: int
    gpus: int
    kv_tokens: int  #: of one engine, computed
    refused: str
    hourly: float | None
    measured: bool  #: the rate of one engine was measured as it stands, on an H100

    def __str__(self) -> str:
        words = f"{self.engines} x {self.profile.key} on {self.gpus} GPU{'s' * (self.gpus > 1)}"
        if self.refused:
            return f"{words}: refused, {self.refused}"
        held = self.kv_tokens // self.profile.engine().max_model_len
        words += f": {self.kv_tokens:,} tokens of KV each (computed), {held} runs at their limit"
        if self.hourly is None:
            return words
        if self.measured:
            return f"{words}; {self.hourly:,.0f} W1 trajectories/h ({self.engines} x one H100, measured)"
        return f"{words}; at most {self.hourly:,.0f} W1 trajectories/h (computed by parameters per GPU)"


def plan(key: str, *, engines: int, gpus: int, gib: float) -> Plan:
    """The bound is the small model's measured rate per GPU, less by the ratio of parameters: each token reads, and
    multiplies by, so many more weights. What GPUs say to each other, and KV memory that runs out earlier, lower it."""
    chosen, small = profile(key), profile(SMALL)
    engine = chosen.engine()
    best = small.best
    ratio = parameters(small.shape) / parameters(chosen.shape)
    return Plan(
        profile=chosen,
        engines=engines,
        gpus=gpus,
        kv_tokens=kv_tokens(chosen.shape, engine, gib=gib, gpus=gpus),
        refused=refusal(chosen, engine, gib=gib, gpus=gpus),
        hourly=None if best is None else best.trajectories_per_hour * ratio * engines * gpus,
        measured=key == SMALL and gpus == 1,
    )


def two(gib: float) -> Iterator[str]:
    """Two GPUs: two small workers, or one large?"""
    small, large = plan(SMALL, engines=2, gpus=1, gib=gib), plan(LARGE, engines=1, gpus=2, gib=gib)
    yield str(small)
    yield str(large)
    if small.refused or large.refused:
        left = [one.profile.key for one in (small, large) if not one.refused]
        yield f"answer: {left[0] if left else 'neither fits'}, by memory"
    elif small.hourly is not None and large.hourly is not None:
        yield (
            f"answer: two small-24b for trajectories (at least {small.hourly / large.hourly:.1f} times as many); one"
            " large-123b where it solves that many more of them, which nobody has measured here"
        )


def node(gib: float) -> Iterator[str]:
    """Eight GPUs, all ways to divide them."""
    for gpus in (8, 4, 2, 1):
        for key in (LARGE, SMALL):
            if gpus in profile(key).gpus:
                yield f"{NODE // gpus}xTP{gpus}: {plan(key, engines=NODE // gpus, gpus=gpus, gib=gib)}"
