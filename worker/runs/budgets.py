"""Budgets: before each model call its worst case is set aside in every account it counts in, and settled after it.

What is spent and set aside never exceeds a limit. A call counts on the day on which it was reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.errors import LeaseLost
from worker.runs.accounts import Amount, DayLimits, Limited, locked, opened, wanted_by
from worker.runs.budget_words import BUDGET, why
from worker.runs.states import Lease
from worker.store.models import Batch, Run, RunState
from worker.store.money import Account, Reservation, Scope
from worker.store.room import has_room, today


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """No room. `passing`: only what other calls have set aside stands in the way. `first`: the run made no call yet."""

    why: str
    scope: Scope
    passing: bool
    first: bool


def _run(lease: Lease) -> Any:
    """The run as far as accounts need it, while it is held; its lease can't go before this transaction ends."""
    columns = (Run.id, Run.repository, Run.installation_id, Run.batch_id, Run.calls, Batch.budget_usd)
    return (
        select(*columns, today().label("day"))
        .join(Batch, Batch.id == Run.batch_id, isouter=True)
        .where(Run.id == lease.run_id, Run.lease_token == lease.token)
        .with_for_update(read=True, of=Run)
    )


def reserve(
    session: Session, lease: Lease, call: int, worst: Amount, limited: Limited, *, sample: int = 0
) -> Refusal | None:
    """Set `worst` aside for one call, in all of its accounts or in none. LeaseLost when the run is in other hands."""
    run = session.execute(_run(lease)).one_or_none()
    if run is None:
        raise LeaseLost(f"run {lease.run_id}: token {lease.token} no longer holds it")
    wanted = wanted_by(run, limited)
    accounts = opened(session, wanted)
    refusals = []
    for account in accounts:
        limits = wanted[account.scope, account.key, account.day]
        if (account.limit_usd, account.limit_tokens) != (limits["limit_usd"], limits["limit_tokens"]):
            account.limit_usd, account.limit_tokens = limits["limit_usd"], limits["limit_tokens"]
        if not _fits(account, worst, account.reserved_usd, account.reserved_tokens):
            passing = _fits(account, worst, Decimal(0), 0)
            refusals.append(
                Refusal(why=why(account, worst), scope=account.scope, passing=passing, first=run.calls == 0)
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
            run_id=lease.run_id,
            sample=sample,
            lease_token=lease.token,
            call=call,
            accounts=ids,
            usd=worst.usd,
            tokens=worst.tokens,
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


def settle(session: Session, lease: Lease, call: int, *, spent: Amount, sample: int = 0) -> None:
    """Replace a call's reservation by what it cost, in the transaction of its ledger row; a call that was never
    reserved counts all the same."""
    reservation = session.execute(_taken(Reservation.run_id == lease.run_id, _of(lease, call, sample))).one_or_none()
    if reservation is not None:
        ids = [account.id for account in locked(session, Account.id.in_(reservation.accounts))]
        freed = Amount(reservation.usd, reservation.tokens)
    else:
        run = session.execute(_run(lease)).one()
        ids = [account.id for account in opened(session, wanted_by(run, Limited()))]
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


def _of(lease: Lease, call: int, sample: int) -> Any:
    return (Reservation.lease_token == lease.token) & (Reservation.call == call) & (Reservation.sample == sample)


def _taken(*conditions: Any) -> Any:
    return (
        delete(Reservation)
        .where(*conditions)
        .returning(Reservation.accounts, Reservation.usd, Reservation.tokens)
        .execution_options(synchronize_session=False)
    )


def release(session: Session, lease: Lease, call: int, *, sample: int = 0) -> None:
    """Free what a call that was not answered had set aside. Nothing to do when that happened already."""
    _free(session, session.execute(_taken(Reservation.run_id == lease.run_id, _of(lease, call, sample))).all())


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
    for account in locked(session, Account.id.in_(freed)):
        account.reserved_usd -= freed[account.id].usd
        account.reserved_tokens -= freed[account.id].tokens
    session.flush()


def refresh(session: Session, days: DayLimits) -> None:
    """Give today's accounts the limits of the settings as they are now: a raised one lets held runs go on."""
    for scope in (Scope.REPOSITORY, Scope.INSTALLATION, Scope.GLOBAL):
        limit = days.of(scope)
        stale = (Account.scope == scope) & (Account.day == today()) & Account.limit_usd.is_distinct_from(limit)
        for account in locked(session, stale):
            account.limit_usd = limit
    session.flush()


def forget_reasons(session: Session) -> None:
    """The sweep's part: a queued run whose budgets have room again no longer shows the call that had none."""
    due = or_(Run.not_before.is_(None), Run.not_before <= func.now())
    freed = (Run.state == RunState.QUEUED) & Run.reason.startswith(BUDGET, autoescape=True) & due & has_room()
    session.execute(update(Run).where(freed).values(reason=None).execution_options(synchronize_session=False))
