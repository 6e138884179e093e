"""`devstral-fix runs`: look at runs, and end them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from agent.hygiene import printable
from worker import money, terminal
from worker.commands.base import AS_JSON, BY, in_transaction, send, show_done, show_list

REASON = 60  # characters


@click.group(epilog="Example: devstral-fix runs list")
def runs() -> None:
    """Look at runs, and end them."""


@runs.command("list", epilog="Example: devstral-fix runs list --json | jq '.[0]'")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@AS_JSON
def list_runs(limit: int, *, as_json: bool) -> None:
    """The newest runs."""
    from worker.runs import pausing, queue_position
    from worker.store import queries
    from worker.store.models import RunState

    def read(session: Any) -> Any:
        found = queries.recent_runs(session, limit=limit)
        ids = [run.id for run in found]
        return found, queue_position.places(session, ids), pausing.pauses(session)

    found, places, paused = in_transaction(read)
    for pause in paused:
        terminal.line(str(pause), err=True)
    data, rows = [], []
    for run in found:
        place = places.get(run.id)
        data.append(
            {
                "run_id": str(run.id),
                "state": run.state.value,
                "outcome": run.outcome.value if run.outcome else None,
                "repository": run.repository,
                "issue_number": run.issue_number,
                "cost_usd": float(run.usd),
                "cost_usd_low": float(run.usd_low),
                "reason": run.reason,
                "queue": None if place is None else place.as_json(),
            }
        )
        state = f"{run.state.value} {run.outcome.value}" if run.outcome else run.state.value
        where = "" if place is None else f"{place.position} of {place.of}"
        why = _cut(run.reason) if run.state is RunState.FAILED else ""
        rows.append(
            [str(run.id), f"{run.repository}#{run.issue_number}", state, where, money.usd(run.usd_low, run.usd), why]
        )
    show_list(
        data, ["run", "issue", "state", "place", "cost", "why"], rows, none="no run was asked for yet", as_json=as_json
    )


def _cut(reason: str | None) -> str:
    """What fits into a line; all of it is in `runs show`."""
    line = printable(" ".join((reason or "").split()))
    return line if len(line) <= REASON else f"{line[: REASON - 1]}…"


@runs.command("cancel", epilog="Example: devstral-fix runs cancel 01990000-0000-7000-8000-000000000000")
@click.argument("run_id", type=click.UUID)
@BY
@AS_JSON
def cancel_run(run_id: UUID, by: str, *, as_json: bool) -> None:
    """End a run, at once: where a worker is on it, its model call is aborted and its command killed."""
    from worker import wakes
    from worker.runs import requests

    state = in_transaction(lambda session: requests.cancel(session, run_id, by=by))
    if state.value == "cancelled":
        send(wakes.deliver(run_id))  # the issue's status comment says so
    words = "cancel requested" if state.value == "running" else state.value
    show_done(
        {"run_id": str(run_id), "state": state.value, "cancel_requested": True}, f"{run_id}: {words}", as_json=as_json
    )
