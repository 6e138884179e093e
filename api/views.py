"""What the REST API shows of a run, as JSON-ready values."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker.runs import accounts, budget_words, quarantine, queue_position
from worker.store import queries, tries
from worker.store.models import Run, RunState
from worker.store.money import Account


def run(session: Session, run_id: UUID) -> dict[str, Any] | None:
    """One run with its usage, evidence and pull request; None when there is none of that id."""
    row = queries.run(session, run_id)
    if row is None:
        return None
    pull_request = queries.pull_request(session, row.repository, row.branch)
    evidence = queries.evidence(session, run_id)
    patch = queries.patch(session, run_id)
    place = queue_position.place(session, run_id)
    return {
        "run_id": str(row.id),
        "kind": row.kind.value,
        "state": row.state.value,
        "outcome": row.outcome.value if row.outcome else None,
        "exit_status": row.exit_status.value if row.exit_status else None,
        "reason": row.reason,
        "held_reason": row.held_reason or held(session, row),
        "repository": row.repository,
        "issue_number": row.issue_number,
        "requested_by": row.requested_by,
        "base_branch": row.base_branch,
        "base_commit": row.base_commit,
        "branch": row.branch,
        "profile": row.profile,
        "model": row.model,
        "tokenizer": row.tokenizer,
        "isolation": row.isolation.value if row.isolation else None,
        "attempt": row.attempt,
        "steps": queries.step_count(session, run_id, sample=row.chosen),
        "tries": [_try(one) for one in tries.of_run(session, run_id)],
        "calls": row.calls,
        "usage": {
            "prompt": row.prompt_tokens,
            "cached": row.cached_tokens,
            "cache_untold": row.cache_untold_tokens,
            "completion": row.completion_tokens,
        },
        "cost_usd": float(row.usd),
        "cost_usd_low": float(row.usd_low),
        "budgets": [budget(account) for account in accounts.of_run(session, row)],
        "summary": row.summary,
        "files": None if patch is None else [change["path"] for change in patch.files],
        "evidence": [
            {
                "stage": e.stage,
                "command": e.command,
                "outcome": e.outcome.value,
                "returncode": e.returncode,
                "seconds": e.seconds,
                "counts": e.counts,
                "detail": e.detail,
            }
            for e in evidence
        ],
        "pull_request_url": pull_request.url if pull_request and pull_request.run_id == row.id else None,
        "queue": None if place is None else place.as_json(),
        "queued_at": row.queued_at.isoformat(),
        "started_at": row.started_at.isoformat() if row.started_at else None,
        "concluded_at": row.concluded_at.isoformat() if row.concluded_at else None,
        "finished_at": row.finished_at.isoformat() if row.finished_at else None,
    }


def _try(one: tries.Try) -> dict[str, Any]:
    return {
        "sample": one.sample,
        "profile": one.profile,
        "temperature": one.temperature,
        "exit_status": one.exit_status.value if one.exit_status else None,
        "outcome": one.outcome.value if one.outcome else None,
    }


def held(session: Session, row: Run) -> str | None:
    """Why a queued run is not started, where money or a quarantine is the reason."""
    if row.state is not RunState.QUEUED:
        return None
    kept = quarantine.standing(session, row.repository, row.issue_number)
    return budget_words.held(session, row) if kept is None else f"held: {quarantine.words(kept)}"


def budget(account: Account) -> dict[str, Any]:
    """One of the accounts a run's next call would count in; a limit of null is none."""
    return {
        "scope": account.scope.value,
        "key": account.key,
        "day": account.day.isoformat() if account.day else None,
        "limit_usd": None if account.limit_usd is None else float(account.limit_usd),
        "spent_usd": float(account.spent_usd),
        "reserved_usd": float(account.reserved_usd),
        "limit_tokens": account.limit_tokens,
        "spent_tokens": account.spent_tokens,
        "used_up": account.used_up,
    }
