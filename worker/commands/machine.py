"""Commands about this machine: what it offers, what it keeps."""

from __future__ import annotations

import json
import sys

import click

from agent.protocols import Isolation
from worker.commands.base import settings


@click.command(epilog="Example: devstral-fix doctor --isolation strict --json | jq '.isolation[] | select(.mend)'")
@click.option(
    "--isolation", type=click.Choice([i.value for i in Isolation]), default=None, help="Default: the setting."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(isolation: str | None, *, as_json: bool) -> None:
    """Say what isolation this machine offers, what is missing, and what mends it.

    Exit status: 0 when the chosen isolation can be had, else 1.
    """
    from dataclasses import asdict

    from worker.doctor import judge, lines
    from worker.examine import examine

    chosen = settings(isolation=isolation)
    report = judge(examine(chosen), chosen.isolation)
    if as_json:
        click.echo(json.dumps({**asdict(report), "fit": report.fit}))
    else:
        for line in lines(report):
            click.echo(line)
    sys.exit(0 if report.fit else 1)


@click.group(epilog="Example: devstral-fix setups retry")
def setups() -> None:
    """Set-ups of repositories: what they made is kept on this machine, and so is that one failed."""


@setups.command("retry", epilog="Example: devstral-fix setups retry")
def setups_retry() -> None:
    """Let failed set-ups be tried again now, instead of after DEVSTRAL_FIX_SETUP_RETRY_SECONDS."""
    from worker.compose import make_layers

    click.echo(f"{make_layers(settings()).forget_failures()} forgotten")
