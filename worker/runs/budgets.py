"""Budgets: before each model call its worst case is set aside in every account it counts in, and settled after it.

A run counts in its own account, its batch's, and today's of its repository, its installation and of all. Accounts are
locked in one fixed order, the busiest last, so that no two calls wait for each other; what is spent and set aside
never exceeds a limit. Days are the database's, in UTC; a call counts on the day on which it was reserved.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import case, delete, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker import money
from worker.errors import LeaseLost
from worker.runs import notifications
from worker.runs.notifications import Kind
from worker.runs.states import Lease
from worker.store.models import Batch, Run, RunState
from worker.store.money import Account, Reservation, Scope
from worker.store.room import today

LOCK_ORDER = (case({scope.value: rank for rank, scope in enumerate(Scope)}, value=Account.scope), Account.id)


@dataclass(frozen=True)
class Amount:
    """Money and tokens (prompt + completion) of a call."""

    usd: Decimal
    tokens: int


@dataclass(frozen=True, kw_only=True)
class DayLimits:
    """What may be spent a day, in USD; None: without limit."""

    repository: Decimal | None = None
    installation: Decimal | None = None
    everything: Decimal | None = None

    def of(self, scope: Scope) -> Decimal | None:
        return {
            Scope.REPOSITORY: self.repository,
            Scope.INSTALLATION: self.installation,
            Scope.GLOBAL: self.everything,
        }.get(scope)


@dataclass(frozen=True, kw_only=True)
class Limited:
    """What limits one run's calls: its own budget, and the days'."""

    usd: Decimal | None = None
    tokens: int | None = None
    days: DayLimits = field(default_factory=DayLimits)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """No room. `passing`: only what other calls have set aside stands in the way. `first`: the run made no call yet."""

    why: str
    scope: Scope
    passing: bool
    first: bool


def _key(run: Any, scope: Scope) -> str | None:
    value = {
        Scope.RUN: run.id,
        Scope.BATCH: run.batch_id,
        Scope.REPOSITORY: run.repository,
        Scope.INSTALLATION: run.installation_id,
        Scope.GLOBAL: "",
    }[scope]
    return None if value is None else str(value)


def _wanted(run: Any, limited: Limited) -> dict[tuple[Scope, str, dt.date | None], dict[str, Any]]:
    """The accounts a run's call counts in, with the limits they have now."""
    wanted: dict[tuple[Scope, str, dt.date | None], dict[str, Any]] = {}
    for scope in Scope:
        if (key := _key(run, scope)) is None:
            continue
        day: dt.date | None = None
        limits: dict[str, Any] = {"limit_usd": limited.days.of(scope), "limit_tokens": None}
        if scope is Scope.RUN:
            limits = {"limit_usd": limited.usd, "limit_tokens": limited.tokens}
        elif scope is Scope.BATCH:
            limits["limit_usd"] = run.budget_usd
        else:
            day = run.day
        wanted[scope, key, day] = limits
    return wanted


def _run(lease: Lease) -> Any:
    """The run as far as accounts need it, while it is held; its lease can't go before this transaction ends."""
    columns = (Run.id, Run.repository, Run.installation_id, Run.batch_id, Run.calls, Batch.budget_usd)
    return (
        select(*columns, today().label("day"))
        .join(Batch, Batch.id == Run.batch_id, isouter=True)
        .where(Run.id == lease.run_id, Run.lease_token == lease.token)
        .with_for_update(read=True, of=Run)
    )


def _locked(session: Session, condition: Any) -> list[Account]:
    statement = select(Account).where(condition).order_by(*LOCK_ORDER).with_for_update()
    return list(session.scalars(statement.execution_options(populate_existing=True)))


def _open(session: Session, wanted: Mapping[tuple[Scope, str, dt.date | None], Mapping[str, Any]]) -> list[Account]:
    """These accounts, locked; made where one is missing.

    Made before any is locked, and in the order of locking: an account that somebody else is making blocks, and who
    waits for it must hold nothing that its maker needs.
    """
    which = or_(
        *(
            (Account.scope == scope) & (Account.key == key) & Account.day.is_not_distinct_from(day)
            for scope, key, day in wanted
        )
    )
    known = {tuple(row) for row in session.execute(select(Account.scope, Account.key, Account.day).where(which))}
    for (scope, key, day), limits in wanted.items():
        if (scope, key, day) not in known:
            values = {"scope": scope, "key": key, "day": day, **limits}
            session.execute(insert(Account).values(**values).on_conflict_do_nothing())
    return _locked(session, which)


def reserve(session: Session, lease: Lease, call: int, worst: Amount, limited: Limited) -> Refusal | None:
    """Set `worst` aside for one call, in all of its accounts or in none. LeaseLost when the run is in other hands."""
    run = session.execute(_run(lease)).one_or_none()
    if run is None:
        raise LeaseLost(f"run {lease.run_id}: token {lease.token} no longer holds it")
    wanted = _wanted(run, limited)
    accounts = _open(session, wanted)
    refusals = []
    for account in accounts:
        limits = wanted[account.scope, account.key, account.day]
        if (account.limit_usd, account.limit_tokens) != (limits["limit_usd"], limits["limit_tokens"]):
            account.limit_usd, account.limit_tokens = limits["limit_usd"], limits["limit_tokens"]
        if not _fits(account, worst, account.reserved_usd, account.reserved_tokens):
            passing = _fits(account, worst, Decimal(0), 0)
            refusals.append(
                Refusal(why=_why(account, worst), scope=account.scope, passing=passing, first=run.calls == 0)
            )
            if not passing:
                account.refused_usd = min(worst.usd, account.refused_usd or worst.usd)
                account.refused_tokens = min(worst.tokens, account.refused_tokens or worst.tokens)
    session.flush()  # limits that changed, and what was refused, stay written
    if refusals:
        return min(refusals, key=lambda refusal: refusal.passing)
    ids = [account.id for account in accounts]
    session.execute(
        insert(Reservation).values(
            run_id=lease.run_id, lease_token=lease.token, call=call, accounts=ids, usd=worst.usd, tokens=worst.tokens
        )
    )
    session.execute(
        update(Account)
        .where(Account.id.in_(ids))
        .values(reserved_usd=Account.reserved_usd + worst.usd, reserved_tokens=Account.reserved_tokens + worst.tokens)
        .execution_options(synchronize_session=False)
    )
    return None


def _fits(account: Account, worst: Amount, reserved_usd: Decimal, reserved_tokens: int) -> bool:
    money = account.limit_usd is None or account.spent_usd + reserved_usd + worst.usd <= account.limit_usd
    tokens = (
        account.limit_tokens is None or account.spent_tokens + reserved_tokens + worst.tokens <= account.limit_tokens
    )
    return money and tokens


def settle(session: Session, lease: Lease, call: int, *, spent: Amount) -> None:
    """Replace a call's reservation by what it cost, in the transaction of its ledger row; a call that was never
    reserved counts all the same."""
    reservation = session.execute(_taken(Reservation.run_id == lease.run_id, _of(lease, call))).one_or_none()
    if reservation is not None:
        ids = [account.id for account in _locked(session, Account.id.in_(reservation.accounts))]
        freed = Amount(reservation.usd, reservation.tokens)
    else:
        run = session.execute(_run(lease)).one()
        ids = [account.id for account in _open(session, _wanted(run, Limited()))]
        freed = Amount(Decimal(0), 0)
    session.execute(
        update(Account)
        .where(Account.id.in_(ids))
        .values(
            reserved_usd=Account.reserved_usd - freed.usd,
            reserved_tokens=Account.reserved_tokens - freed.tokens,
            spent_usd=Account.spent_usd + spent.usd,
            spent_tokens=Account.spent_tokens + spent.tokens,
            calls=Account.calls + 1,
        )
        .execution_options(synchronize_session=False)
    )


def _of(lease: Lease, call: int) -> Any:
    return (Reservation.lease_token == lease.token) & (Reservation.call == call)


def _taken(*conditions: Any) -> Any:
    return (
        delete(Reservation)
        .where(*conditions)
        .returning(Reservation.accounts, Reservation.usd, Reservation.tokens)
        .execution_options(synchronize_session=False)
    )


def release(session: Session, lease: Lease, call: int) -> None:
    """Free what a call that was not answered had set aside. Nothing to do when that happened already."""
    _free(session, session.execute(_taken(Reservation.run_id == lease.run_id, _of(lease, call))).all())


def release_stale(session: Session) -> int:
    """The sweep's part: free what was set aside under leases that are gone. How many reservations that were."""
    key = tuple_(Reservation.run_id, Reservation.lease_token, Reservation.call, Reservation.sample)
    held = select(Run.id, Run.lease_token).where(Run.state == RunState.RUNNING)
    gone = (
        select(Reservation.run_id, Reservation.lease_token, Reservation.call, Reservation.sample)
        .where(tuple_(Reservation.run_id, Reservation.lease_token).not_in(held))
        .with_for_update(skip_locked=True)
    )
    stale = session.execute(_taken(key.in_(gone))).all()
    _free(session, stale)
    return len(stale)


def _free(session: Session, reservations: Sequence[Any]) -> None:
    freed: dict[int, Amount] = {}
    for reservation in reservations:
        for account in reservation.accounts:
            so_far = freed.get(account, Amount(Decimal(0), 0))
            freed[account] = Amount(so_far.usd + reservation.usd, so_far.tokens + reservation.tokens)
    if not freed:
        return
    for account in _locked(session, Account.id.in_(freed)):
        account.reserved_usd -= freed[account.id].usd
        account.reserved_tokens -= freed[account.id].tokens
    session.flush()


def refresh(session: Session, days: DayLimits) -> None:
    """Give today's accounts the limits of the settings as they are now: a raised one lets held runs go on."""
    for scope in (Scope.REPOSITORY, Scope.INSTALLATION, Scope.GLOBAL):
        limit = days.of(scope)
        stale = (Account.scope == scope) & (Account.day == today()) & Account.limit_usd.is_distinct_from(limit)
        for account in _locked(session, stale):
            account.limit_usd = limit
    session.flush()


def tell_used_up(session: Session) -> None:
    """The sweep's part: a shared budget that is used up is told to the operator's hook, once."""
    statement = select(Account).where(
        Account.used_up, Account.scope != Scope.RUN, or_(Account.day.is_(None), Account.day == today())
    )
    for account in session.scalars(statement):
        about = {"budget": budget_of(account), "key": account.key, "limit_usd": str(account.limit_usd)}
        notifications.note(session, Kind.BUDGET_USED_UP, f"{account.id}:{account.limit_usd}", **about)


def budget_of(account: Account) -> str:
    """`repository acme/x today`, for people."""
    name = {
        Scope.RUN: "this run",
        Scope.BATCH: "its batch",
        Scope.REPOSITORY: f"repository {account.key}",
        Scope.INSTALLATION: f"installation {account.key}",
        Scope.GLOBAL: "everything",
    }[account.scope]
    return name if account.day is None else f"{name} today"


def _why(account: Account, worst: Amount) -> str:
    if account.limit_usd is not None and account.spent_usd + account.reserved_usd + worst.usd > account.limit_usd:
        spent, limit, reserved = map(money.usd, (account.spent_usd, account.limit_usd, account.reserved_usd))
        used = f"{spent} of {limit} used, {reserved} reserved"
        needs = money.usd(worst.usd)
    else:
        used = f"{account.spent_tokens:,} of {account.limit_tokens:,} tokens used, {account.reserved_tokens:,} reserved"
        needs = f"{worst.tokens:,} tokens"
    return f"budget: {budget_of(account)}: {used}; the next call may need {needs}"


def accounts_of(session: Session, run: Run) -> Sequence[Account]:
    """The accounts a run counts in today, the narrowest first; those that nothing was spent from are left out."""
    day = session.scalar(select(today()))
    which = [
        (Account.scope == scope)
        & (Account.key == key)
        & (Account.day.is_(None) if scope in (Scope.RUN, Scope.BATCH) else Account.day == day)
        for scope in Scope
        if (key := _key(run, scope)) is not None
    ]
    return session.scalars(select(Account).where(or_(*which)).order_by(*LOCK_ORDER)).all()


def held(session: Session, run: Run) -> str | None:
    """Why a queued run is not started, where a budget is the reason; None when they all have room."""
    if run.state is not RunState.QUEUED:
        return None
    for account in accounts_of(session, run):
        if account.used_up and account.scope is not Scope.RUN:
            if account.day is None:
                return "held: the budget of its batch is used up; goes on when it is raised"
            whose = budget_of(account).removesuffix(" today").removeprefix("repository ")
            return f"held: today's budget of {whose} is used up; goes on at 00:00 UTC"
    return None
