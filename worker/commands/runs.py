"""`devstral-fix runs`: look at runs, move them to another profile, and end them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from worker import money, terminal
from worker.commands.base import AS_JSON, BY, Profile, brief, in_transaction, send, show_done, show_list


@click.group(epilog="Example: devstral-fix runs list")
def runs() -> None:
    """Look at runs, move them to another profile, and end them."""


@runs.command("list", epilog="Example: devstral-fix runs list --json | jq '.[0]'")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@AS_JSON
def list_runs(limit: int, *, as_json: bool) -> None:
    """The newest runs."""
    from worker.runs import pausing, queue_position, workforce
    from worker.store import queries
    from worker.store.models import RunState

    def read(session: Any) -> Any:
        found = queries.recent_runs(session, limit=limit)
        ids = [run.id for run in found]
        notes = [*map(str, pausing.pauses(session)), *workforce.waiting_in_vain(session)]
        return found, queue_position.places(session, ids), notes

    found, places, notes = in_transaction(read)
    for note in notes:
        terminal.line(note, err=True)
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
        why = brief(run.reason) if run.state is RunState.FAILED else ""
        rows.append(
            [str(run.id), f"{run.repository}#{run.issue_number}", state, where, money.usd(run.usd_low, run.usd), why]
        )
    show_list(
        data, ["run", "issue", "state", "place", "cost", "why"], rows, none="no run was asked for yet", as_json=as_json
    )


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


@runs.command("move", epilog="Example: devstral-fix runs move --from-profile small-24b --to-profile large-123b")
@click.argument("run_ids", metavar="[RUN_ID]...", nargs=-1, type=click.UUID)
@click.option(
    "--from-profile", type=Profile(), required=True, help="Whose queued runs are moved: all, or those that are named."
)
@click.option("--to-profile", type=Profile(), required=True, help="Whose workers shall take them.")
@AS_JSON
def move_runs(run_ids: tuple[UUID, ...], from_profile: str, to_profile: str, *, as_json: bool) -> None:
    """Queue runs for another profile, at the same place in the order of their priority and age.

    Runs that a worker holds stay where they are: drain it first. One that has steps of another model begins anew, and
    its ledger keeps what they cost.
    """
    from worker import wakes
    from worker.runs import moving

    moved = in_transaction(
        lambda session: moving.move(session, from_profile=from_profile, to_profile=to_profile, run_ids=run_ids)
    )
    send(wakes.permit(to_profile))
    words = [f"{moved.count} moved from {from_profile} to {to_profile}"]
    if moved.running:
        words.append(f"{moved.running} are held by a worker and stay")
    if moved.in_vain is not None:
        words.append(moved.in_vain)
    data = {"moved": moved.count, "running": moved.running, "to_profile": to_profile, "unserved": moved.in_vain}
    show_done(data, "; ".join(words), as_json=as_json)
