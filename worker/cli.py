"""The console script `devstral-fix`: its commands, and what becomes of their errors."""

from __future__ import annotations

import click

from worker.commands import (
    answers,
    batches,
    bench,
    evals,
    github,
    local,
    machine,
    operations,
    processes,
    prune,
    pulls,
    quarantine,
    recordings,
    runs,
    show,
    spend,
    telemetry,
    triage,
)
from worker.commands.base import Commands, with_texts


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: devstral-fix demo",
)
@click.version_option(package_name="devstral-fix")
def cli() -> None:
    """Turn GitHub issues into pull requests with Devstral on your own GPUs."""


for command in (
    local.demo,
    local.fix,
    triage.triage,
    processes.up,
    processes.serve,
    processes.work,
    processes.beat,
    processes.migrate,
    machine.doctor,
    bench.bench,
    machine.setups,
    runs.runs,
    prune.prune,
    batches.batches,
    quarantine.quarantine,
    spend.spend,
    answers.answers,
    pulls.pulls,
    telemetry.telemetry,
    recordings.replay,
    recordings.inspect,
    evals.evaluate,
    github.github,
    operations.workers,
    operations.drain,
    operations.pause,
    operations.resume,
):
    cli.add_command(command)
runs.runs.add_command(show.show_run)
with_texts(cli)


def main() -> None:
    """The entry point. `worker.exits` has what its exit status says."""
    cli(standalone_mode=True)


if __name__ == "__main__":
    main()
