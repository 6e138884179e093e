"""`make bench-agent`: what a step costs beside the model, its engine and the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent.tokens import TokenCounter
from worker.bench import overhead_loop, overhead_steps, records
from worker.bench.corpus import Corpus
from worker.bench.overhead_steps import Phase
from worker.bench.records import Figure, figure, percentile

COMMAND = "make bench-agent"
GOAL = 5.0  # ms
TRAJECTORIES, CONTEXT, SHORT = 64, 100_000, 10_000
STEPS, LOOP_STEPS = 16, 80  # the window holds them all
ANSWER_SECONDS, TOOL_SECONDS, PACED_SECONDS = 2.0, 1.5, 60.0
BLOCKS = (16, 128)
_ABOUT = """\
A step is what a trajectory does between two answers: what its tool gave is encoded, its call is admitted and handed to
the engine's loop, the answer's ids are read, booked and kept. Here it runs through the service's own code, with the
bundled vocabulary and texts of this project, 300 tokens generated and 700 observed a step, over an engine that answers
at once or after a fixed time. CPU is that of all threads of the process, a step; wall time is what passed beyond the
engine's answer. Flat out: all trajectories as fast as they can. Paced: answers take 2 s and tools 1.5 s on average, as
W2 has them."""
_LOOP = """\
The loop is that of `agent/loop.py` between an answer and the next call, without the commands: the answer is understood,
its tool's result is made into text, recorded and encoded. Writing to the store, three transactions a step, is not in it
and was not measured here."""
_WALL = """\
Why the wall time misses: two cores are shared with other work here. Five runs of 27 November, paced: 4.99 ms at a load
of 2.3, then 5.35, 5.26, 5.56 and 6.09 at loads from 3 to 5, the median 3.7 to 5.3. CPU time varied less (4.2 to 4.7)
and met the goal in all of them."""
_VLLM = """\
vLLM names all blocks of a prompt with each call, however much of it was there before, in the engine's own process; that
is its cost, not ours, and larger blocks make it smaller. These lines are there where vLLM is installed
(`.venv-engine/bin/devstral-fix bench overhead`)."""


def _spread(name: str, seconds: Sequence[float], *, goal: bool = False) -> list[Figure]:
    mean = sum(seconds) / len(seconds)
    return [
        _ms(f"{name}: mean", mean, goal=GOAL if goal else None),
        _ms(f"{name}: p50", percentile(seconds, 0.5)),
        _ms(f"{name}: p99", percentile(seconds, 0.99)),
    ]


def _ms(name: str, seconds: float, *, goal: float | None = None) -> Figure:
    return figure(name, 1000 * seconds, "ms", goal=goal, command=COMMAND)


def _phase(name: str, phase: Phase) -> list[Figure]:
    steps = phase.steps
    return [
        _ms(f"{name}: CPU, all threads", phase.cpu, goal=GOAL),
        *_spread(f"{name}: CPU, its own thread", [step.encode + step.call for step in steps]),
        _ms(f"{name}: of that, encoding", sum(step.encode for step in steps) / len(steps)),
    ]


def measure(counter: TokenCounter) -> list[Figure]:
    found: list[Figure] = []
    for context in (SHORT, CONTEXT):
        with overhead_steps.fleet(counter, trajectories=TRAJECTORIES, context=context) as fleet:
            name = f"{TRAJECTORIES} trajectories of {context:,} tokens"
            fast = fleet.flat_out(STEPS)
            found += _phase(f"{name}, flat out", fast)
            found.append(_ms(f"{name}, flat out: wall, all steps / their number", fast.seconds / len(fast.steps)))
            if context == CONTEXT:
                slow = fleet.paced(PACED_SECONDS, answer_seconds=ANSWER_SECONDS, tool_seconds=TOOL_SECONDS)
                rate = len(slow.steps) / slow.seconds
                found.append(figure(f"{name}, paced: steps", rate, "/s", goal=None, command=COMMAND))
                found += _phase(f"{name}, paced", slow)
                found += _spread(f"{name}, paced: wall", [step.wall for step in slow.steps], goal=True)
                ready = sum(step.ready for step in slow.steps) / len(slow.steps)
                found.append(_ms(f"{name}, paced: its own thread waited for a core, the answer included", ready))
    for context in (SHORT, CONTEXT):
        turns = overhead_loop.turns(counter, context=context, steps=LOOP_STEPS)
        found += _spread(f"loop at {context:,} tokens: wall", [turn.loop for turn in turns], goal=context == CONTEXT)
    return found + _naming(counter)


def _naming(counter: TokenCounter) -> list[Figure]:
    """Where vLLM is installed."""
    try:
        from worker.adapters.engine.vllm_host import naming_seconds  # noqa: PLC0415 - not everywhere
    except ImportError:
        return []
    ids = Corpus(counter).ids(CONTEXT)
    return [
        _ms(
            f"beside it, vLLM names a prompt of {CONTEXT:,} tokens in blocks of {size}",
            min(naming_seconds(ids, block_size=size) for _ in range(5)),
        )
        for size in BLOCKS
    ]


def main() -> int:
    """The exit status: 1 when a goal was missed."""
    found = measure(TokenCounter())
    load = (
        f"The machine's load was {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores meanwhile: what other work takes "
        "shows in wall times, in their tail above all."
    )
    records.write("agent", found, remarks=(_ABOUT, _WALL, _LOOP, _VLLM, load))
    print(records.table(found))
    return 1 if any(one.met is False for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
