"""`devstral-fix batches`: many runs under one budget."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import click

from worker.commands.base import in_transaction


class Usd(click.ParamType[Decimal]):
    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except ArithmeticError:
            self.fail(f"{value!r} is no amount", param, ctx)
        if not amount.is_finite() or amount < 0:
            self.fail(f"{value!r} is no amount", param, ctx)
        return amount


@click.group(epilog="Example: devstral-fix batches list")
def batches() -> None:
    """Many runs under one budget: make one, look at it, change its budget."""


@batches.command("create", epilog="Example: devstral-fix batches create --name backlog --budget-usd 25")
@click.option("--name", required=True)
@click.option("--budget-usd", type=Usd(), default=None, help="What all of its runs may spend. Default: no limit.")
@click.option("--by", default="operator", show_default=True, help="Who asks, for the record.")
def create_batch(name: str, budget_usd: Decimal | None, by: str) -> None:
    """Make an empty batch and print its id."""
    from worker.runs import batches as domain

    click.echo(in_transaction(lambda session: domain.create(session, name=name, by=by, budget=budget_usd).id))


@batches.command("budget", epilog="Example: devstral-fix batches budget 01990000-0000-7000-8000-000000000000 40")
@click.argument("batch_id", type=click.UUID)
@click.argument("usd", type=Usd())
def budget(batch_id: UUID, usd: Decimal) -> None:
    """Set what a batch may spend; runs that waited for that go on by themselves."""
    from worker.runs import batches as domain

    if not in_transaction(lambda session: domain.set_budget(session, batch_id, usd)):
        raise click.BadParameter(f"there is no batch {batch_id}")
    click.echo(f"{batch_id}: ${usd:.2f}")


@batches.command("list", epilog="Example: devstral-fix batches list --json | jq .")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def list_batches(limit: int, *, as_json: bool) -> None:
    """The newest batches."""
    from worker.runs import batches as domain

    def read(session: Any) -> list[dict[str, Any]]:
        return [domain.totals(session, batch) for batch in domain.newest(session, limit=limit)]

    for data in in_transaction(read):
        click.echo(json.dumps(data) if as_json else line(data))


@batches.command("show", epilog="Example: devstral-fix batches show 01990000-0000-7000-8000-000000000000")
@click.argument("batch_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True)
def show(batch_id: UUID, *, as_json: bool) -> None:
    """One batch: its runs by state and outcome, and what they spent."""
    from worker.runs import batches as domain
    from worker.store.models import Batch

    def read(session: Any) -> dict[str, Any] | None:
        batch = session.get(Batch, batch_id)
        return None if batch is None else domain.totals(session, batch)

    data = in_transaction(read)
    if data is None:
        raise click.BadParameter(f"there is no batch {batch_id}")
    if as_json:
        click.echo(json.dumps(data))
        return
    click.echo(line(data))
    for title in ("runs", "outcomes"):
        click.echo(f"{title}: {', '.join(f'{count} {name}' for name, count in data[title].items()) or 'none'}")
    click.echo(f"calls: {data['calls']}; reserved now: ${data['reserved_usd']:.4f}")


def line(data: dict[str, Any]) -> str:
    of = "no limit" if data["budget_usd"] is None else f"${data['budget_usd']:.2f}"
    state = "finished" if data["finished_at"] else "used up" if data["used_up"] else "open"
    count = sum(data["runs"].values())
    return f"{data['batch_id']}  {data['name']}  {state}  {count} runs  ${data['spent_usd']:.4f} of {of}"
