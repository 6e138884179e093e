"""`devstral-fix answers`: how well each model writes its tool calls."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from worker import terminal
from worker.commands.base import AS_JSON, in_transaction
from worker.table import aligned

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command(epilog="Example: devstral-fix answers --since 2026-01-01 --json | jq '.[] | {model, repaired_rate}'")
@click.option("--since", type=DAY, metavar="DATE", help="The first day, in UTC, such as 2026-01-31.")
@click.option("--until", type=DAY, metavar="DATE", help="The first day that is left out.")
@AS_JSON
def answers(since: datetime | None, until: datetime | None, *, as_json: bool) -> None:
    """How many answers of each model had to be mended to be understood, by kind, or could not be.

    A model's name holds its version. A version that is worse shows here before it shows in outcomes. Read from the
    recorded steps, so answers of pruned runs are left out.
    """
    from worker.store import steps

    first, last = (None if day is None else day.date() for day in (since, until))
    found = in_transaction(
        lambda session: [_rated(row) for row in steps.answers_by_model(session, since=first, until=last)]
    )
    if as_json:
        terminal.data(found)
    elif not found:
        terminal.line("None: no answer was read in these days.")
    else:
        for line in _table(found):
            terminal.line(line)


def _rated(row: dict[str, Any]) -> dict[str, Any]:
    """With rates of 1 beside the counts; each kind is [answers, rate]."""
    total = row["answers"]
    return {
        **row,
        "repaired_rate": row["repaired"] / total,
        "malformed_rate": row["malformed"] / total,
        "kinds": {kind: [count, count / total] for kind, count in row["kinds"].items()},
    }


def _table(found: list[dict[str, Any]]) -> list[str]:
    rows = []
    for one in found:
        kinds = ", ".join(f"{kind} {rate:.2%}" for kind, (_, rate) in one["kinds"].items())
        shares = (f"{one[name]} ({one[f'{name}_rate']:.2%})" for name in ("repaired", "malformed"))
        rows.append([one["model"] or "?", str(one["answers"]), *shares, kinds])
    return aligned(["model", "answers", "repaired", "malformed", "kinds of repairs"], rows, left=1)
