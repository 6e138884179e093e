"""Accounts: which ones a run's calls count in, under which limits, and how they are locked.

A run counts in its own account, its batch's, and today's of its repository, its installation and of all. Accounts are
locked in one fixed order, the busiest last, so that no two calls wait for each other. Days are the database's, in UTC.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import case, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.store.models import Run
from worker.store.money import Account, Scope
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


def key_of(run: Any, scope: Scope) -> str | None:
    value = {
        Scope.RUN: run.id,
        Scope.BATCH: run.batch_id,
        Scope.REPOSITORY: run.repository,
        Scope.INSTALLATION: run.installation_id,
        Scope.GLOBAL: "",
    }[scope]
    return None if value is None else str(value)


def wanted_by(run: Any, limited: Limited) -> dict[tuple[Scope, str, dt.date | None], dict[str, Any]]:
    """The accounts a run's call counts in, with the limits they have now."""
    wanted: dict[tuple[Scope, str, dt.date | None], dict[str, Any]] = {}
    for scope in Scope:
        if (key := key_of(run, scope)) is None:
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


def locked(session: Session, condition: Any) -> list[Account]:
    statement = select(Account).where(condition).order_by(*LOCK_ORDER).with_for_update()
    return list(session.scalars(statement.execution_options(populate_existing=True)))


def opened(session: Session, wanted: Mapping[tuple[Scope, str, dt.date | None], Mapping[str, Any]]) -> list[Account]:
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
    return locked(session, which)


def of_run(session: Session, run: Run) -> Sequence[Account]:
    """The accounts a run counts in today, the narrowest first; those that nothing was spent from are left out."""
    day = session.scalar(select(today()))
    which = [
        (Account.scope == scope)
        & (Account.key == key)
        & (Account.day.is_(None) if scope in (Scope.RUN, Scope.BATCH) else Account.day == day)
        for scope in Scope
        if (key := key_of(run, scope)) is not None
    ]
    return session.scalars(select(Account).where(or_(*which)).order_by(*LOCK_ORDER)).all()
