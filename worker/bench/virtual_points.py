"""Points of `bench agents --simulated`: records that say of themselves that nothing was measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from worker.bench import agents_figures
from worker.bench.virtual_agents import FACTS, Simulation
from worker.bench.workloads import WORKLOADS, means, plan

PLANNED = 512
TOKEN = 81_920  # bytes of KV memory of one, in the 24B shape with FP8
NOTES = """\
SIMULATED: a model of vLLM's scheduler in virtual time, with the step times of one H100 (the 24B shape, FP8 KV cache).
It compares rules of admission with each other; none of its figures is a measurement. Our own part is taken to be 4 ms
a step.
"""


def simulation(name: str, *, host_gib: float | None, expected: int | None, seed: int, **given: Any) -> Simulation:
    """Of a workload, on the engine of the records with so much host memory behind it; None: with as much as they had.
    `expected`: see `Simulation`; None: the plans' mean context."""
    workload = WORKLOADS[name]
    facts = FACTS if host_gib is None else replace(FACTS, host_kv_tokens=int(host_gib * 2**30 / TOKEN))
    mean = round(means(plan(workload, seed, number) for number in range(PLANNED)).context)
    return Simulation(workload=workload, facts=facts, seed=seed, expected=expected or mean, **given)


def run(simulation: Simulation, modes: Sequence[str], in_flight: Sequence[int]) -> list[dict[str, Any]]:
    """Every mode at every number in flight; lines go to stderr as they end. ValueError for an unknown mode."""
    records = []
    for mode in modes:
        for count in in_flight:
            found = agents_figures.figures(simulation.point(mode, count), simulation.workload)
            records.append(
                {
                    "benchmark": "agents-simulated",
                    "mode": f"simulated {mode}",
                    "in_flight": count,
                    "workload": asdict(simulation.workload),
                    "seed": simulation.seed,
                    "together": simulation.together,
                    "expected_context": simulation.expected,
                    "engine": asdict(simulation.facts),
                    "speed": asdict(simulation.speed),
                    "figures": found,
                }
            )
            print(
                f"simulated {mode} at {count}: {found['trajectories_per_hour']:.1f} trajectories/hour, "
                f"{found['output_tokens_per_second']:.0f} tokens/s, re-prefilled {100 * found['re_prefilled']:.1f} %",
                file=sys.stderr,
                flush=True,
            )
    return records


def report(records: Sequence[dict[str, Any]]) -> str:
    return "\n".join((NOTES, agents_figures.table(records), agents_figures.NOTES))
