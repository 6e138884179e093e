"""`devstral-fix batches`: many runs under one budget."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

import click

from worker import money, terminal
from worker.commands.base import AS_JSON, BY, NotDone, in_transaction, show_done, show_list
from worker.table import aligned

LARGEST = 10**8  # the ledger's columns hold no more
LEAST = Decimal("0.000001")  # and nothing finer


class Usd(click.ParamType[Decimal]):
    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
            if amount.is_finite():
                amount = amount.quantize(LEAST, ROUND_HALF_UP)
        except ArithmeticError:
            self.fail(f"{value!r} is no amount", param, ctx)
        if not amount.is_finite() or not LEAST <= amount < LARGEST:
            self.fail(f"{value!r} is no amount: {LEAST:f} or more, and less than {LARGEST:,}", param, ctx)
        return amount


class Name(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip() or not str(value).isprintable():
            self.fail("a batch needs a name, in one printable line", param, ctx)
        return str(value).strip()


@click.group(epilog="Example: devstral-fix batches list")
def batches() -> None:
    """Many runs under one budget: make one, look at it, change its budget.

    No command puts a run into a batch yet: that comes with triage. Until then a batch stays empty.
    """


@batches.command("create", epilog="Example: devstral-fix batches create --name backlog --budget-usd 25")
@click.option("--name", type=Name(), required=True, help="For people.")
@click.option("--budget-usd", type=Usd(), default=None, help="What all of its runs may spend. Default: no limit.")
@BY
@AS_JSON
def create_batch(name: str, budget_usd: Decimal | None, by: str, *, as_json: bool) -> None:
    """Make an empty batch and print its id."""
    from worker.runs import batches as domain

    made = in_transaction(lambda session: str(domain.create(session, name=name, by=by, budget=budget_usd).id))
    amount = None if budget_usd is None else float(budget_usd)
    show_done({"batch_id": made, "name": name, "budget_usd": amount}, made, as_json=as_json)


@batches.command("budget", epilog="Example: devstral-fix batches budget 01990000-0000-7000-8000-000000000000 40")
@click.argument("batch_id", type=click.UUID)
@click.argument("usd", type=Usd())
@AS_JSON
def budget(batch_id: UUID, usd: Decimal, *, as_json: bool) -> None:
    """Set what a batch may spend; runs that waited for that go on by themselves."""
    from worker.runs import batches as domain

    if not in_transaction(lambda session: domain.set_budget(session, batch_id, usd)):
        raise NotDone(f"there is no batch {batch_id}")
    data = {"batch_id": str(batch_id), "budget_usd": float(usd)}
    show_done(data, f"{batch_id}: {money.usd(usd)}", as_json=as_json)


@batches.command("list", epilog="Example: devstral-fix batches list --json | jq '.[0]'")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@AS_JSON
def list_batches(limit: int, *, as_json: bool) -> None:
    """The newest batches."""
    from worker.runs import batches as domain

    def read(session: Any) -> list[dict[str, Any]]:
        return [domain.totals(session, batch) for batch in domain.newest(session, limit=limit)]

    found = in_transaction(read)
    show_list(found, HEAD, [row(data) for data in found], none="no batch was made yet", as_json=as_json)


@batches.command("show", epilog="Example: devstral-fix batches show 01990000-0000-7000-8000-000000000000")
@click.argument("batch_id", type=click.UUID)
@AS_JSON
def show(batch_id: UUID, *, as_json: bool) -> None:
    """One batch: its runs by state and outcome, and what they spent."""
    from worker.runs import batches as domain
    from worker.store.models import Batch

    def read(session: Any) -> dict[str, Any] | None:
        batch = session.get(Batch, batch_id)
        return None if batch is None else domain.totals(session, batch)

    data = in_transaction(read)
    if data is None:
        raise NotDone(f"there is no batch {batch_id}")
    if as_json:
        terminal.data(data)
        return
    for text in aligned(HEAD, [row(data)]):
        terminal.line(text)
    for title in ("runs", "outcomes"):
        terminal.line(f"{title}: {', '.join(f'{count} {name}' for name, count in data[title].items()) or 'none'}")
    terminal.line(f"calls: {data['calls']}; reserved now: {money.usd(data['reserved_usd'])}")


HEAD = ("batch", "name", "state", "runs", "spent", "budget")


def row(data: dict[str, Any]) -> list[str]:
    of = "no limit" if data["budget_usd"] is None else money.usd(data["budget_usd"])
    state = "finished" if data["finished_at"] else "used up" if data["used_up"] else "open"
    spent = money.usd(data["spent_usd_low"], data["spent_usd"])
    return [data["batch_id"], data["name"], state, str(sum(data["runs"].values())), spent, of]
