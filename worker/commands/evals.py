"""`devstral-fix eval`: instances solved and scored, or two evals side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.protocols import Isolation
from worker import terminal
from worker.commands.base import AS_JSON, settings
from worker.exits import Exit
from worker.table import aligned

if TYPE_CHECKING:
    from worker.evals.results import Result


@click.command("eval", epilog="Example: devstral-fix eval instances.jsonl --model openai:http://127.0.0.1:8000/v1#m")
@click.argument("instances", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", default=None, help="scripted:FILE or openai:URL#NAME (default: DEVSTRAL_FIX_MODEL).")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("eval"), show_default=True,
              help="Its folder; where it has results already, the eval goes on.")  # fmt: skip
@click.option("--parallel", type=click.IntRange(min=1, max=256), default=1, show_default=True, help="At once.")
@click.option("--isolation", type=click.Choice([i.value for i in Isolation]), default="basic", show_default=True)
@click.option("--compare", nargs=2, type=click.Path(exists=True, path_type=Path), metavar="A B",
              help="Two evals' folders or results side by side; nothing is run.")  # fmt: skip
@AS_JSON
def evaluate(
    instances: Path | None,
    model: str | None,
    output: Path,
    parallel: int,
    isolation: str,
    *,
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Solve the instances of a SWE-bench file and score each in the sandbox.

    `repo` has to be a path of a git repository on this machine. The folder gets results.jsonl, predictions.jsonl (for
    the official harness), report.md, report.html and the trajectories. Exit status 0 when every instance has a result.
    """
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    if instances is None:
        raise click.UsageError("name a file of instances, or --compare two evals")
    from worker.evals import report
    from worker.evals.instances import read
    from worker.evals.results import Store
    from worker.evals.run import evaluate as run

    wanted = read(instances)
    here = settings(model=model, isolation=isolation)
    store = Store(output)
    names = [instance.instance_id for instance in wanted]
    begun = sum(name in store.results for name in names)
    if begun:
        terminal.line(f"goes on: {begun} of {len(names)} have a result", err=True)

    def done() -> list[Result]:
        return [store.results[name] for name in names if name in store.results]

    def told(result: Result) -> None:
        """One line of the live table."""
        solved = sum(each.resolved for each in done())
        cells = report.row(result)
        how = "resolved" if result.resolved else "not resolved"
        terminal.line(
            f"{len(done())}/{len(names)}  {solved} resolved  {cells[0]}: {how}"
            f" ({', '.join(filter(None, (cells[2], f'{cells[3]} steps', cells[5], f'{cells[6]} s', cells[7])))})",
            err=True,
        )

    try:
        run(here, wanted, store, parallel=parallel, told=told)
    finally:
        if done():
            store.predictions()
            report.write(output, done(), len(names))
    if as_json:
        terminal.data([result.model_dump(mode="json") for result in done()])
    else:
        for line in [*aligned(report.HEAD, [report.row(result) for result in done()]), ""]:
            terminal.line(line)
        for line in report.summary(done(), len(names)):
            terminal.line(line)
        terminal.line(f"written: {output}/report.md, report.html, results.jsonl, predictions.jsonl")
    sys.exit(Exit.DONE if len(done()) == len(names) else Exit.FAILED)


def _compare(a: Path, b: Path, *, as_json: bool) -> None:
    from worker.evals import report
    from worker.evals.results import read
    from worker.evals.statistics import compare

    found = compare(read(a), read(b))
    lines, rows = report.compared(found)
    if as_json:
        data: dict[str, Any] = {
            "pairs": found.pairs,
            "resolved": [vars(estimate) for estimate in found.rates],
            "differences": {name: vars(gap) for name, _, _, gap in found.rows},
            "only_b_resolved": list(found.won),
            "only_a_resolved": list(found.lost),
        }
        terminal.data(data)
        return
    for line in [f"A {a}", f"B {b}", *lines, ""]:
        terminal.line(line)
    for line in aligned(["mean", "A", "B", "B - A", "95 % interval"], rows, left=1):
        terminal.line(line)
