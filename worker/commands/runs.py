"""`devstral-fix runs`: look at runs, and end them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import click

from worker.commands.base import in_transaction, send


@click.group(epilog="Example: devstral-fix runs list")
def runs() -> None:
    """Look at runs, and end them."""


@runs.command("list", epilog="Example: devstral-fix runs list --json | jq .")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def list_runs(limit: int, *, as_json: bool) -> None:
    """The newest runs."""
    from worker.runs import pausing, queue_position
    from worker.store import queries

    def read(session: Any) -> Any:
        rows = queries.recent_runs(session, limit=limit)
        return rows, queue_position.places(session, [row.id for row in rows]), pausing.pauses(session)

    rows, places, paused = in_transaction(read)
    for pause in paused:
        click.echo(str(pause), err=True)
    for row in rows:
        place = places.get(row.id)
        data = {
            "run_id": str(row.id),
            "state": row.state.value,
            "outcome": row.outcome.value if row.outcome else None,
            "repository": row.repository,
            "issue_number": row.issue_number,
            "cost_usd": float(row.usd),
            "reason": row.reason,
            "queue": None if place is None else place.as_json(),
        }
        if as_json:
            click.echo(json.dumps(data))
        else:
            outcome = f" {data['outcome']}" if row.outcome else ""
            where = "" if place is None else f"  {place.position} of {place.of}"
            click.echo(
                f"{row.id}  {row.repository}#{row.issue_number}  {row.state.value}{outcome}{where}  ${row.usd:.4f}"
            )


@runs.command("cancel", epilog="Example: devstral-fix runs cancel 01990000-0000-7000-8000-000000000000")
@click.argument("run_id", type=click.UUID)
@click.option("--by", default="operator", show_default=True, help="Who asks, for the record.")
def cancel_run(run_id: UUID, by: str) -> None:
    """End a run, at once: where a worker is on it, its model call is aborted and its command killed."""
    from worker import wakes
    from worker.runs import requests

    state = in_transaction(lambda session: requests.cancel(session, run_id, by=by))
    if state.value == "cancelled":
        send(wakes.deliver(run_id))  # the issue's status comment says so
    click.echo(f"{run_id}: {'cancel requested' if state.value == 'running' else state.value}")
