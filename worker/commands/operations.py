"""`devstral-fix workers`, `drain`, `pause`, `resume`: look at the service's processes, and hold them back."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from worker.commands.base import in_transaction, send

BY = click.option("--by", default="operator", show_default=True, help="Who asks, for the record.")
REPOSITORY = click.option("--repository", metavar="OWNER/NAME", help="Only this one. Default: everything.")


@click.group(epilog="Example: devstral-fix workers list")
def workers() -> None:
    """Look at worker processes."""


@workers.command("list", epilog="Example: devstral-fix workers list --json | jq 'select(.state == \"lost\")'")
@click.option("--all", "every", is_flag=True, help="Those that stopped, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_workers(*, every: bool, as_json: bool) -> None:
    """The worker processes: what each takes, what it holds, and when it was last seen."""
    from worker.runs import workforce

    for seen in in_transaction(lambda session: workforce.seen(session, every=every)):
        if as_json:
            click.echo(json.dumps(asdict(seen), default=str))
            continue
        asked = f" (asked by {seen.drain_requested_by})" if seen.drain_requested_by else ""
        click.echo(
            f"{seen.name}  {seen.role}  {seen.state}{asked}  holds {len(seen.holds)}"
            f"  slots {seen.slots}  {','.join(seen.queues)}  {seen.isolation}  {seen.version}"
            f"  up {seen.age_seconds:.0f} s, seen {seen.seen_seconds_ago:.0f} s ago"
        )
        for run_id in seen.holds:
            click.echo(f"    {run_id}")


@click.command(epilog="Example: devstral-fix drain gpu-host-1:4711")
@click.argument("worker")
@click.option("--all", "every", is_flag=True, help="Every worker whose name begins so, such as all of a host.")
@click.option("--undo", is_flag=True, help="Let it take permits again.")
@BY
def drain(worker: str, *, every: bool, undo: bool, by: str) -> None:
    """Let a worker take nothing more: it finishes what it holds, then idles (`drained` in `workers list`).

    WORKER is its name, or how the name of just one begins.
    """
    from worker.runs import workforce

    names = in_transaction(lambda session: workforce.drain(session, worker, by=by, every=every, undo=undo))
    for name in names:
        click.echo(f"{name}: {'takes permits again' if undo else 'takes nothing more'}")


@click.command(epilog="Example: devstral-fix pause --reason 'GPU maintenance'")
@click.option("--reason", default=None, help="Shown to people: in `runs list`, `doctor` and on new issues.")
@REPOSITORY
@click.option("--now", "at_once", is_flag=True, help="What runs is given back at the end of its step.")
@BY
def pause(reason: str | None, repository: str | None, by: str, *, at_once: bool) -> None:
    """Start no run and open no pull request until `devstral-fix resume`. Requests are taken, and wait."""
    from worker.runs import pausing

    in_transaction(lambda session: pausing.pause(session, by=by, reason=reason, repository=repository, at_once=at_once))
    click.echo(f"paused: {repository or 'everything'}")


@click.command(epilog="Example: devstral-fix resume")
@REPOSITORY
def resume(repository: str | None) -> None:
    """End a pause, and let what waited go on."""
    from worker import wakes
    from worker.runs import pausing

    if not in_transaction(lambda session: pausing.resume(session, repository=repository)):
        click.echo(f"was not paused: {repository or 'everything'}")
        return
    send(wakes.sweep())
    click.echo(f"resumed: {repository or 'everything'}")
