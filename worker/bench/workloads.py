"""Agent workloads W1 and W2: what each trajectory will generate, observe and wait for, fixed before anything runs."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Lengths:
    """Tokens, lognormal, clipped."""

    mu: float
    sigma: float
    low: int
    high: int

    def draw(self, source: random.Random) -> int:
        return min(self.high, max(self.low, round(source.lognormvariate(self.mu, self.sigma))))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Trajectories of one kind. `shared` and `own`: tokens that each one begins with."""

    name: str
    shared: int  #: the same for all trajectories: the system prompt
    own: int
    steps: int
    generated: Lengths
    observed: Lengths
    tool_mean: float  #: seconds, exponential
    tool_max: float
    max_model_len: int  #: the window it is meant for

    def __post_init__(self) -> None:
        if min(self.shared, self.own, self.generated.low, self.observed.low) < 4:
            raise ValueError("each part of a workload has at least 4 tokens: some are the wire format's")


W1 = Workload(
    name="W1",
    shared=2500,
    own=1500,
    steps=12,
    generated=Lengths(5.0, 0.6, 30, 800),
    observed=Lengths(6.2, 0.9, 20, 4000),
    tool_mean=1.5,
    tool_max=20.0,
    max_model_len=32_768,
)
W2 = Workload(
    name="W2",
    shared=6000,
    own=2000,
    steps=80,
    generated=Lengths(5.5, 0.6, 40, 1500),
    observed=Lengths(6.2, 0.9, 20, 4000),
    tool_mean=1.5,
    tool_max=20.0,
    max_model_len=131_072,
)
WORKLOADS = {workload.name: workload for workload in (W1, W2)}


@dataclass(frozen=True)
class StepPlan:
    generated: int  #: tokens
    observed: int  #: tokens, what the wire format puts around them included
    tool_seconds: float


@dataclass(frozen=True)
class Plan:
    """One trajectory."""

    trajectory: int
    shared: int
    own: int
    steps: tuple[StepPlan, ...]

    def prompts(self) -> list[int]:
        """Tokens of each step's prompt."""
        sizes, size = [], self.shared + self.own
        for step in self.steps:
            sizes.append(size)
            size += step.generated + step.observed
        return sizes


def plan(workload: Workload, seed: int, trajectory: int) -> Plan:
    """The same for the same arguments, on every machine and in every mode."""
    source = random.Random(f"{workload.name}:{seed}:{trajectory}")  # noqa: S311 - filler
    steps = tuple(
        StepPlan(
            generated=workload.generated.draw(source),
            observed=workload.observed.draw(source),
            tool_seconds=round(min(workload.tool_max, source.expovariate(1 / workload.tool_mean)), 6),
        )
        for _ in range(workload.steps)
    )
    return Plan(trajectory, workload.shared, workload.own, steps)


def digest(plans: Iterable[Plan]) -> str:
    """sha256 over all of them: points that print the same one ran the same plans."""
    sha = hashlib.sha256()
    for one in plans:
        sha.update(json.dumps(asdict(one), sort_keys=True).encode())
    return sha.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Means:
    """Of many plans, per trajectory: what admission and the roofline reckon with."""

    context: float  #: tokens held while it runs, the shared ones included; each step weighs the same
    new: float  #: prompt tokens that no cache can know: its own and what it observes before its last step
    generated: float  #: tokens
    decode_context: float  #: tokens read per generated token


def means(plans: Iterable[Plan]) -> Means:
    contexts: list[float] = []
    new = generated = read = count = 0.0
    for one in plans:
        count += 1
        new += one.own + sum(step.observed for step in one.steps[:-1])
        for prompt, step in zip(one.prompts(), one.steps, strict=True):
            context = prompt + step.generated / 2
            contexts.append(context)
            generated += step.generated
            read += step.generated * context
    return Means(
        context=sum(contexts) / len(contexts),
        new=new / count,
        generated=generated / count,
        decode_context=read / generated,
    )
