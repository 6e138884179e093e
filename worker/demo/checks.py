"""What the demo proves at its end, asked of the places where it must be true: git, the double, the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.demo.github_double import GitHubDouble
from worker.demo.seed import REPOSITORY
from worker.store import queries
from worker.store.models import Run, Spend
from worker.store.session import Store


@dataclass(frozen=True)
class Check:
    what: str
    holds: bool


def run_checks(store: Store, double: GitHubDouble, run_id: UUID) -> Iterator[Check]:
    """Each promise of a delivered run, looked up from outside."""
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        patch = queries.patch(session, run_id)
        pull_request = queries.pull_request(session, run.repository, run.branch)
        yield Check("the ledger's rows add up to the usage shown", _ledger_adds_up(session, run))
    head = double.branch(REPOSITORY, run.branch)
    ahead = double.repositories.ahead(REPOSITORY, run.base_branch, run.branch) if head else 0
    yield Check("the branch is in the repository, one commit ahead", ahead == 1)
    tree = double.repositories.tree(REPOSITORY, run.branch)
    yield Check("its tree is the one that was verified", patch is not None and tree == patch.tree)
    pulls = double.pull_requests(REPOSITORY)
    yield Check(
        "there is one pull request, from that branch, ready for review",
        len(pulls) == 1
        and pull_request is not None
        and pulls[0]["number"] == pull_request.number
        and pulls[0]["head"]["ref"] == run.branch
        and not pulls[0]["draft"],
    )
    comments = double.comments(REPOSITORY, run.issue_number)
    yield Check(
        "there is one status comment, and it links the pull request",
        len(comments) == 1 and pull_request is not None and pull_request.url in comments[0]["body"],
    )


def _ledger_adds_up(session: Session, run: Run) -> bool:
    columns = (Spend.prompt_tokens, Spend.cached_tokens, Spend.completion_tokens, Spend.usd)
    sums = session.execute(select(func.count(), *map(func.sum, columns)).where(Spend.run_id == run.id)).one()
    total = (run.calls, run.prompt_tokens, run.cached_tokens, run.completion_tokens, run.usd)
    return run.calls > 0 and tuple(Decimal(value) for value in sums) == tuple(Decimal(value) for value in total)
