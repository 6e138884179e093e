"""`devstral-fix spend`: what was spent, and what it would have cost elsewhere."""

from __future__ import annotations

import sys
from datetime import date, datetime
from typing import Any

import click

from worker import exits, terminal
from worker.commands.base import AS_JSON, in_transaction, settings

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command(epilog="Example: devstral-fix spend --by repository --since 2026-01-01 --equivalent claude-opus-4.5")
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(["day", "repository", "model", "profile", "kind", "label"]),
    help="Group by this; several are possible. Default: day.",
)
@click.option("--since", type=DAY, metavar="DATE", help="The first day, in UTC, such as 2026-01-31.")
@click.option("--until", type=DAY, metavar="DATE", help="The first day that is left out.")
@click.option(
    "--equivalent",
    multiple=True,
    metavar="MODEL",
    help="Show the same tokens at this model's price; several are possible. Default: the setting.",
)
@AS_JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--check", is_flag=True, help="Compare the totals with all rows of the ledger; they have to be equal.")
def spend(
    by: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    equivalent: tuple[str, ...],
    *,
    as_json: bool,
    as_csv: bool,
    check: bool,
) -> None:
    """What was spent: calls, tokens, what they cost, and what the same tokens cost at other models' prices.

    Read from totals by day, not from the ledger's rows. What engines of ours did not use is a row of its own, at
    DEVSTRAL_FIX_GPU_USD_PER_HOUR. Where no price of cached input is known, a cost is a range; with --json every amount
    is [at least, at most].
    """
    from worker import prices
    from worker import spend as report
    from worker.runs import totals

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    first, last = _day(since), _day(until)
    if first is not None and last is not None and first > last:
        raise click.UsageError("--since is after --until")
    if check:
        found = in_transaction(lambda session: totals.differences(session, since=first))
        for difference in found:
            terminal.line(difference)
        terminal.line(f"{len(found)} differences between totals and ledger")
        sys.exit(exits.Exit.FAILED if found else exits.Exit.DONE)
    groups = tuple(dict.fromkeys(by)) or ("day",)
    models = {key: prices.entry(key) for key in equivalent or settings().equivalent_models}
    gpu_hour = settings().gpu_usd_per_hour

    def read(session: Any) -> list[report.Line]:
        idle = report.idle_lines(session, groups, gpu_hour=gpu_hour, since=first, until=last)
        return report.lines(session, groups, since=first, until=last) + idle

    lines = in_transaction(read)
    records = [report.record(line, groups, models) for line in lines]
    if as_json:
        terminal.data(records)
    elif as_csv:
        terminal.text(report.as_csv(records, groups, models), nl=False)
    elif not records:
        terminal.line("None: nothing was spent in these days.")
    else:
        for text in report.as_table(records, groups, models):
            terminal.line(text)


def _day(given: datetime | None) -> date | None:
    return None if given is None else given.date()
