"""`devstral-fix telemetry`: what the runs tell of the harness, by model, profile and prompt."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from worker import terminal
from worker.commands.answers import DAY
from worker.commands.base import AS_JSON, in_transaction


@click.command(epilog="Example: devstral-fix telemetry --since 2026-01-01 --json | jq '.[] | {prompt_hash, stuck}'")
@click.option("--since", type=DAY, metavar="DATE", help="The first day, in UTC, such as 2026-01-31.")
@click.option("--until", type=DAY, metavar="DATE", help="The first day that is left out.")
@AS_JSON
def telemetry(since: datetime | None, until: datetime | None, *, as_json: bool) -> None:
    """How the agent fared, by model, profile and prompt: calls that were malformed or failed, edits that missed,
    commands that took too long, steps to the first edit, new beginnings, runs that ended as stuck.

    Of the runs that concluded on those days, read from their recorded steps.
    """
    from worker.store.telemetry import by_configuration

    first, last = (None if day is None else day.date() for day in (since, until))
    found = in_transaction(lambda session: list(by_configuration(session, since=first, until=last)))
    if as_json:
        terminal.data(found)
    elif not found:
        terminal.line("None: no run concluded in these days.")
    else:
        for one in found:
            for line in _told(one):
                terminal.line(line)


def _told(one: dict[str, Any]) -> list[str]:
    runs, steps, edit = one["runs"], one["steps"], one["first_edit"]
    return [
        f"{one['model'] or '?'}, profile {one['profile']}, prompt {one['prompt_hash'][:12] or '?'}",
        f"  runs             {runs}, of which stuck {one['stuck']} ({one['stuck'] / runs:.1%})",
        f"  steps a run      {steps / runs:.1f}, to the first edit {'none made' if edit is None else f'{edit:.1f}'}",
        f"  new beginnings   {one['compactions']}",
        f"  answers mended   {one['repaired']}",
        *(f"  {words:<16} {_by_tool(one, name)}" for name, words in _KINDS),
        f"  edits missed     {one['missed_edits']}",
    ]


_KINDS = (("malformed", "calls malformed"), ("failed", "calls failed"), ("timed_out", "calls timed out"))


def _by_tool(one: dict[str, Any], kind: str) -> str:
    calls = one["calls"]
    return ", ".join(f"{tool} {n} of {calls[tool]}" for tool, n in sorted(one[kind].items())) or "none"
