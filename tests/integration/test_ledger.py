"""The ledger against a real Postgres: it adds up, it never doubles, and a late worker writes nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from agent.outcome import Evidence, FileChange, Patch
from agent.outcome import TestOutcome as Judged
from agent.types import Action, Step, ToolCall, Usage
from tests.factories import COMMIT, TREE, queue_run
from worker.errors import LeaseLost
from worker.runs import ledger, states
from worker.store import models, queries, steps
from worker.store.evidence import Evidence as EvidenceRow


@pytest.fixture
def lease(store):
    with store.transaction() as session:
        queue_run(session)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
    assert lease is not None
    return lease


@pytest.fixture
def lost(store, lease):
    """The same lease after somebody else took the run over."""
    with store.transaction() as session:
        states.override(session, lease.run_id, models.RunState.QUEUED)
    with store.transaction() as session:
        assert states.claim_next(session, profile="small-24b", owner="b", seconds=60) is not None
    return lease


def book(store, lease, call, usage=Usage(prompt=100, cached=40, completion=7), cost=0.000123):  # noqa: B008
    with store.transaction() as session:
        ledger.book(
            session, lease, call=call, usage=usage, cost=cost, seconds=0.5, profile="small-24b", model="scripted"
        )


STEP = Step(
    index=0,
    thought="a\x00b\ud800",
    actions=(
        Action(call=ToolCall(id="call00000", name="bash", arguments="{}"), observation="x\x00", ok=True, seconds=0.1),
    ),
    usage=Usage(prompt=1, completion=1),
    usd=0.0,
    model_seconds=0.1,
    tree=TREE,
)
PATCH = Patch(
    base_commit=COMMIT,
    tree=TREE,
    diff="diff --git a/x b/x\n+caf\udce9\n",
    files=(FileChange(path="x", status="M", old_mode="100644", new_mode="100644", added=1, removed=0),),
)
EVIDENCE = Evidence(
    stage="after", tree=TREE, command="make", outcome=Judged.PASSED, returncode=0, seconds=1.0, output="ok\x00"
)


def test_totals_and_rows_are_equal(store, lease):
    for call in range(5):
        book(store, lease, call)
    with store.transaction() as session:
        run = session.get_one(models.Run, lease.run_id)
        spend = models.Spend
        sums = session.execute(
            select(
                func.count(),
                func.sum(spend.prompt_tokens),
                func.sum(spend.cached_tokens),
                func.sum(spend.completion_tokens),
                func.sum(spend.usd),
            )
        ).one()
        assert tuple(sums) == (5, 500, 200, 35, Decimal("0.000615"))
        assert (run.calls, run.prompt_tokens, run.cached_tokens, run.completion_tokens, run.usd) == tuple(sums)


def test_tokens_of_which_no_cache_was_told_are_kept_apart(store, lease):
    book(store, lease, 0)
    book(store, lease, 1, usage=Usage(prompt=50, cache_untold=50))
    with store.transaction() as session:
        assert ledger.usage(session.get_one(models.Run, lease.run_id)) == Usage(
            prompt=150, cached=40, cache_untold=50, completion=7
        )
        untold = select(models.Spend.cache_untold_tokens).order_by(models.Spend.call)
        assert list(session.scalars(untold)) == [0, 50]


def test_the_same_call_is_never_booked_twice(store, lease):
    book(store, lease, 0)
    with pytest.raises(IntegrityError):
        book(store, lease, 0)
    with store.transaction() as session:
        assert session.get_one(models.Run, lease.run_id).calls == 1, "the totals rolled back with the row"


@pytest.mark.parametrize(
    "write",
    [
        lambda session, lease: ledger.book(
            session, lease, call=0, usage=Usage(), cost=0.0, seconds=0.0, profile="p", model="m"
        ),
        lambda session, lease: ledger.record_step(session, lease, STEP),
        lambda session, lease: ledger.record_patch(session, lease, PATCH),
        lambda session, lease: ledger.record_evidence(session, lease, EVIDENCE),
    ],
    ids=["spend", "step", "patch", "evidence"],
)
def test_a_late_worker_writes_nothing(store, lost, write):
    with pytest.raises(LeaseLost), store.transaction() as session:
        write(session, lost)
    with store.transaction() as session:
        for table in (models.Spend, steps.Step, models.Patch, EvidenceRow):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_text_of_strangers_is_storable(store, lease):
    with store.transaction() as session:
        ledger.record_step(session, lease, STEP)
        ledger.record_evidence(session, lease, EVIDENCE)
    with store.transaction() as session:
        step = queries.steps(session, lease.run_id)[0]
        assert "\x00" not in step.thought
        assert step.actions[0]["observation"] == "x\N{REPLACEMENT CHARACTER}"


def test_a_patch_comes_back_byte_for_byte(store, lease):
    with store.transaction() as session:
        ledger.record_patch(session, lease, PATCH)
    with store.transaction() as session:
        row = queries.patch(session, lease.run_id)
        assert row is not None
        assert ledger.stored_patch(row) == PATCH
