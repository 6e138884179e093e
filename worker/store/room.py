"""Which queued runs may start now: one condition for every query that picks runs."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Select, String, and_, cast, exists, func, not_, or_, select, tuple_

from worker.store.models import Run
from worker.store.money import Account, Quarantine, Scope


def today() -> ColumnElement[dt.date]:
    """The database's day in UTC, whatever a session's time zone."""
    return func.date(func.timezone("UTC", func.now()))


def quarantined() -> ColumnElement[bool]:
    """A quarantine that stands now."""
    return and_(Quarantine.lifted_at.is_(None), or_(Quarantine.until.is_(None), Quarantine.until > func.now()))


def has_room() -> ColumnElement[bool]:
    """True for runs whose budgets have room. A run's own budget is left out: a run that used it up has to be claimed
    once more, to be concluded.

    No part of it refers to the run's row but by comparing: each set (there are few used-up budgets) is read once per
    statement, however many runs are queued.
    """

    def keys(scope: Scope) -> Select[str]:
        now = or_(Account.day.is_(None), Account.day == today())
        return select(Account.key).where(Account.used_up, Account.scope == scope, now)

    return and_(
        not_(exists(keys(Scope.GLOBAL))),
        func.coalesce(cast(Run.batch_id, String), "").not_in(keys(Scope.BATCH)),
        Run.repository.not_in(keys(Scope.REPOSITORY)),
        func.coalesce(cast(Run.installation_id, String), "").not_in(keys(Scope.INSTALLATION)),
    )


def may_start() -> ColumnElement[bool]:
    """True for runs whose budgets have room and that nothing keeps in quarantine; read as `has_room` is."""
    return and_(
        has_room(),
        Run.repository.not_in(select(Quarantine.repository).where(quarantined(), Quarantine.issue_number.is_(None))),
        tuple_(Run.repository, Run.issue_number).not_in(
            select(Quarantine.repository, Quarantine.issue_number).where(
                quarantined(), Quarantine.issue_number.is_not(None)
            )
        ),
    )
