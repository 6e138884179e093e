"""What people are told of budgets: why a call has no room, why a run is held, which shared budget is used up."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from worker import money
from worker.runs import accounts, notifications
from worker.runs.accounts import Amount
from worker.runs.notifications import Kind
from worker.store.models import Run, RunState
from worker.store.money import Account, Scope
from worker.store.room import today


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


def why(account: Account, worst: Amount) -> str:
    """Why a call that may cost `worst` has no room in the account."""
    if account.limit_usd is not None and account.spent_usd + account.reserved_usd + worst.usd > account.limit_usd:
        spent, limit, reserved = map(money.usd, (account.spent_usd, account.limit_usd, account.reserved_usd))
        used = f"{spent} of {limit} used, {reserved} reserved"
        needs = money.usd(worst.usd)
    else:
        used = f"{account.spent_tokens:,} of {account.limit_tokens:,} tokens used, {account.reserved_tokens:,} reserved"
        needs = f"{worst.tokens:,} tokens"
    return f"budget: {budget_of(account)}: {used}; the next call may need {needs}"


def held(session: Session, run: Run) -> str | None:
    """Why a queued run is not started, where a budget is the reason; None when they all have room."""
    if run.state is not RunState.QUEUED:
        return None
    for account in accounts.of_run(session, run):
        if account.used_up and account.scope is not Scope.RUN:
            if account.day is None:
                return "held: the budget of its batch is used up; goes on when it is raised"
            whose = budget_of(account).removesuffix(" today").removeprefix("repository ")
            return f"held: today's budget of {whose} is used up; goes on at 00:00 UTC"
    return None


def tell_used_up(session: Session) -> None:
    """The sweep's part: a shared budget that is used up is told to the operator's hook, once."""
    statement = select(Account).where(
        Account.used_up, Account.scope != Scope.RUN, or_(Account.day.is_(None), Account.day == today())
    )
    for account in session.scalars(statement):
        about = {"budget": budget_of(account), "key": account.key, "limit_usd": str(account.limit_usd)}
        notifications.note(session, Kind.BUDGET_USED_UP, f"{account.id}:{account.limit_usd}", **about)
