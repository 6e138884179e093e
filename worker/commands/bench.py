"""`devstral-fix bench`: how fast this machine, its sandboxes, its engine are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker import terminal
from worker.commands.base import settings, try_writing

if TYPE_CHECKING:
    from worker.adapters.engine.options import EngineOptions

SERVE_WINDOW = 4096  # tokens: twice what `bench serve` needs


class Numbers(click.ParamType[tuple[int, ...]]):
    """16,48,96"""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} is no list of numbers such as 16,48,96", param, ctx)
        return numbers


@click.group(epilog="Example: devstral-fix bench control-plane")
def bench() -> None:
    """Measure this machine and print a table."""


@bench.command("control-plane", epilog="Example: devstral-fix bench control-plane")
def control_plane() -> None:
    """Webhooks and queue; writes docs/benchmarks, exit status 1 when a goal is missed."""
    from worker.bench import control_plane

    sys.exit(control_plane.main())


@bench.command(epilog="Example: devstral-fix bench github")
def github() -> None:
    """Reactions, calls, webhooks with GitHub's double; writes docs/benchmarks, exit status 1 when a goal is missed."""
    from worker.bench import github

    sys.exit(github.main())


@bench.command(epilog="Example: devstral-fix bench sandbox")
def sandbox() -> None:
    """Sandboxes and snapshots; writes docs/benchmarks, exit status 1 when a goal is missed."""
    from worker.bench import sandbox

    sys.exit(sandbox.main())


@bench.command(epilog="Example: devstral-fix bench overhead")
def overhead() -> None:
    """What an agent's step costs beside the model and the commands; writes docs/benchmarks, exit status 1 when a goal
    is missed."""
    from worker.bench import overhead

    sys.exit(overhead.main())


@bench.command(epilog="Example: devstral-fix bench triage")
def triage() -> None:
    """What looking through a backlog costs beside the model; writes docs/benchmarks, exit status 1 when a goal is
    missed."""
    from worker.bench import triage

    sys.exit(triage.main())


ENGINE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--max-model-len", type=click.IntRange(1), help="Tokens of one context."),
    click.option("--kv-cache-dtype", default="auto", show_default=True, help="For example fp8."),
    click.option("--kv-offloading-gib", type=float, help="Host memory for KV blocks that left the GPU."),
    click.option("--max-num-seqs", type=click.IntRange(1), help="Sequences in one step."),
    click.option("--max-num-batched-tokens", type=click.IntRange(1), help="Tokens in one step."),
    click.option("--gpu-memory-utilization", type=click.FloatRange(0, 1), help="Of 1."),
    click.option("--kv-cache-memory-bytes", type=click.IntRange(1), help="For a CPU, where no share of it is meant."),
    click.option("--block-size", type=click.IntRange(1), help="Tokens of a KV block."),
    click.option("--tensor-parallel", type=click.IntRange(1), default=1, show_default=True),
    click.option("--dummy-weights", is_flag=True, help="Random weights: speeds are right, text is noise."),
    click.option("--enforce-eager", is_flag=True, help="No compilation, no CUDA graphs."),
    click.option(
        "--engine-arg", "engine_args", multiple=True, metavar="NAME=JSON", help="A further argument of vLLM's engine."
    ),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(ENGINE_OPTIONS):
        command = option(command)
    return command


def _engine(model: Path, given: dict[str, Any], *, max_model_len: int) -> EngineOptions:
    """`max_model_len`: where the command line gave none."""
    from worker.adapters.engine.options import EngineOptions

    extra: dict[str, Any] = {}
    for argument in given.pop("engine_args"):
        name, found, value = argument.partition("=")
        try:
            extra[name] = json.loads(value)
        except ValueError:
            found = ""
        if not found:
            raise click.BadParameter(f"{argument!r} is not NAME=JSON, such as async_scheduling=false")
    return EngineOptions(
        model=model, extra=extra, **(given | {"max_model_len": given["max_model_len"] or max_model_len})
    )


def _config(options: EngineOptions | None) -> dict[str, Any]:
    """As records keep it."""
    from dataclasses import asdict

    return {} if options is None else asdict(options) | {"model": str(options.model)}


def _write(path: Path | None, found: Any) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@bench.command(
    epilog="Example: devstral-fix bench agents --model /srv/small-24b --workload W2 --in-flight 16,48 --dummy-weights"
)
@click.option("--model", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Its directory.")
@click.option("--workload", type=click.Choice(["W1", "W2"]), default="W2", show_default=True)
@click.option("--in-flight", type=Numbers(), default="16,48,96", show_default=True, help="Trajectories at once.")
@click.option("--modes", default="plain,admitted", show_default=True, help="Also one-at-a-time, lockstep.")
@click.option("--window", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds counted.")
@click.option("--ramp", type=click.FloatRange(0), default=240.0, show_default=True, help="Seconds before, at most.")
@click.option("--seed", default=0, show_default=True)
@click.option("--expected-tokens", type=click.IntRange(1), help="Mean context for admission; default: the plans'.")
@click.option("--gpu", type=click.Choice(["H100", "H200"]), help="For the roofline.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Records of all points.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory for raw records; made.")
@click.option("--simulated", is_flag=True, help="No model, no GPU: an engine in virtual time, to compare rules.")
@click.option("--together", is_flag=True, help="With --simulated: all begin at their first step, not at mixed ages.")
@engine_options
def agents(
    model: Path | None,
    workload: str,
    in_flight: tuple[int, ...],
    modes: str,
    window: float,
    ramp: float,
    seed: int,
    expected_tokens: int | None,
    gpu: str | None,
    json_file: Path | None,
    out: Path | None,
    simulated: bool,
    together: bool,
    **engine: Any,
) -> None:
    """Agent trajectories per hour: the real conversations and admission over one engine, tools replaced by waits.

    Exit status 1 when a call failed.
    """
    from worker.adapters.engine.conversation import EngineModel
    from worker.bench import opening
    from worker.bench.agents import Hardware, Points, report, run
    from worker.bench.agents_modes import MODES
    from worker.bench.filler import Filler
    from worker.bench.roofline import GPUS, shape_of
    from worker.bench.workloads import WORKLOADS

    chosen = modes.split(",")
    if unknown := [mode for mode in chosen if mode not in MODES]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(MODES)}", param_hint="--modes")
    if simulated:
        from worker.bench import virtual_points

        found = virtual_points.simulation(
            workload, host_gib=engine["kv_offloading_gib"], expected=expected_tokens,
            seed=seed, ramp=ramp, window=window, together=together,
        )  # fmt: skip
        try:
            records = virtual_points.run(found, chosen, in_flight)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--modes") from error
        _write(json_file, records)
        terminal.text(virtual_points.report(records))
        return
    if model is None:
        raise click.UsageError("give --model DIR, or --simulated")
    options = _engine(model, engine, max_model_len=WORKLOADS[workload].max_model_len)
    counter = opening.vocabulary(model)
    filler = Filler(counter)
    hardware = None
    if gpu is not None:
        shape = shape_of(model, kv_cache_dtype=options.kv_cache_dtype)
        hardware = Hardware(shape=shape, gpu=GPUS[gpu], gpus=options.tensor_parallel)
    with opening.opened(options) as running:
        points = Points(
            engine=running,
            model=EngineModel(running, counter, model.name),
            filler=filler,
            workload=WORKLOADS[workload],
            seed=seed,
            ramp=ramp,
            window=window,
            expected=expected_tokens,
            hardware=hardware,
            config=_config(options),
            out=out,
        )
        try:
            run(points, chosen, in_flight)
        finally:
            _write(json_file, points.records)
            terminal.text(report(points))
    sys.exit(1 if any(record["figures"]["failures"] for record in points.records) else 0)


@bench.command(epilog="Example: devstral-fix bench serve --server http://127.0.0.1:8000/v1 --name devstral")
@click.option("--model", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Engine in this process.")
@click.option("--server", metavar="URL", help="An OpenAI-compatible server instead.")
@click.option("--name", help="The model's name at the server.")
@click.option("--concurrency", type=Numbers(), default="1,16,100", show_default=True)
@click.option("--prompts", type=click.IntRange(1), help="Per concurrency; default: 4 times it, at least 32.")
@click.option("--seed", default=0, show_default=True)
@click.option("--bare", is_flag=True, help="Beside it, vLLM without this service's part.")
@click.option("--vocabulary", type=click.IntRange(1001), default=8192, show_default=True, help="Ids below are used.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Directory for raw records; made.")
@engine_options
def serve(
    model: Path | None,
    server: str | None,
    name: str | None,
    concurrency: tuple[int, ...],
    *,
    prompts: int | None,
    seed: int,
    vocabulary: int,
    bare: bool,
    json_file: Path | None,
    out: Path | None,
    **engine: Any,
) -> None:
    """Random prompts and answers of 1..1000 tokens, with the figures that SGLang's bench_serving prints.

    Exit status 1 when a request failed.
    """
    from contextlib import ExitStack

    from worker.bench import opening
    from worker.bench import serve as bench_serve

    if (model is None) == (server is None) or (server is None) != (name is None):
        raise click.UsageError("give --model DIR, or --server URL with --name NAME")
    if bare and model is None:
        raise click.UsageError("--bare is of an engine in this process")
    chosen = bench_serve.Prompts(seed=seed, count=prompts, vocabulary=vocabulary)
    found: list[dict[str, Any]] = []
    options = None if model is None else _engine(model, engine, max_model_len=SERVE_WINDOW)
    with ExitStack() as stack:
        running = None if options is None else stack.enter_context(opening.opened(options))
        target: bench_serve.Target = (
            stack.enter_context(bench_serve.Server(str(server), str(name)))
            if running is None
            else bench_serve.InProcess(running)
        )
        for count in concurrency:
            found.append(bench_serve.measure(target, count, chosen, bare=running if bare else None))
            terminal.line(f"{count} at once: {found[-1]['output_throughput']:.0f} output tokens/s", err=True)
        if out is not None:
            bench_serve.keep(found, out, _config(options), running)
    _write(json_file, found)
    terminal.text(bench_serve.table(found))
    sys.exit(1 if any(one["failures"] for one in found) else 0)


@bench.command(epilog="Example: devstral-fix bench constrained --model /srv/small-24b --concurrency 1,16")
@click.option("--model", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--concurrency", type=Numbers(), default="1,16", show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=200, show_default=True, help="Of each answer, at most.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False))
@engine_options
def constrained(
    model: Path, concurrency: tuple[int, ...], *, tokens: int, json_file: Path | None, **engine: Any
) -> None:
    """What it costs to hold answers to a call of one of the agent's tools: the same prompts, free and constrained."""
    from agent.tools import default_tools
    from agent.tools.base import spec
    from agent.types import Limits
    from worker.adapters.engine.answer import AnswerReader
    from worker.adapters.engine.grammar import Marks, one_of
    from worker.bench import constrained as bench_constrained
    from worker.bench import opening
    from worker.bench.serve import Prompts

    counter = opening.vocabulary(model)
    tools = [spec(tool) for tool in default_tools(Limits())]
    grammar = one_of(tools, Marks.of(AnswerReader(counter.load())))
    with opening.opened(_engine(model, engine, max_model_len=SERVE_WINDOW)) as running:
        found = [
            bench_constrained.measure(running, grammar, concurrency=count, tokens=tokens, prompts=Prompts())
            for count in concurrency
        ]
    _write(json_file, found)
    terminal.text(bench_constrained.table(found))


@bench.command(epilog="Example: devstral-fix bench accuracy test.jsonl --concurrency 64 --json found.json")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", metavar="SPEC", help="Default: DEVSTRAL_FIX_MODEL.")
@click.option("--limit", type=click.IntRange(1), help="Problems that are scored; default: all.")
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Requests at once.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Figures and all answers.")
def accuracy(file: Path, model: str | None, limit: int | None, concurrency: int, json_file: Path | None) -> None:
    """Score a file of GSM8K's format: JSON lines with "question" and "answer", which ends in "#### NUMBER".

    The first 8 problems are shown as examples and not scored. Exit status 1 when a request failed.
    """
    from contextlib import closing

    from worker import compose
    from worker.bench import accuracy as bench_accuracy
    from worker.bench import gsm8k

    data = gsm8k.read(file)
    try_writing(json_file, "--json")
    with closing(compose.make_model(settings(model=model))) as opened:
        found = bench_accuracy.measure(opened, data, limit=limit, concurrency=concurrency)
    _write(json_file, found)
    terminal.text(bench_accuracy.table(found))
    sys.exit(1 if found["failures"] else 0)
