"""What failed repeatedly is not tried again for a while; there is a reason, and a way out."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import func, text, update

from agent.outcome import Outcome
from tests.factories import queue_run
from worker.runs import quarantine, states
from worker.store.models import Run, RunState
from worker.store.money import Quarantine
from worker.store.room import may_start

CLOCK = itertools.count(1)


def ended(store, number: int, state: RunState, outcome: Outcome | None = None, **where) -> None:
    """A run of the issue that ended so, a little later than all before it."""
    with store.transaction() as session:
        run_id = queue_run(session, number, **where)
        at = func.now() - text("interval '1 hour'") + text(f"interval '{next(CLOCK)} s'")
        states.override(session, run_id, RunState.FAILED, reason="it broke", outcome=outcome)
        session.execute(update(Run).where(Run.id == run_id).values(state=state, finished_at=at))


def judge(store) -> list[tuple[str, int | None]]:
    with store.transaction() as session:
        return [(kept.repository, kept.issue_number) for kept in quarantine.judge(session, hours=24)]


def claimable(store) -> int:
    with store.transaction() as session:
        return session.query(Run).where(Run.state == RunState.QUEUED, may_start()).count()


def test_an_issue_that_brought_no_result_three_times_is_kept_and_let_out(store):
    ended(store, 1, RunState.FAILED)
    ended(store, 1, RunState.DELIVERED, Outcome.UNSOLVED)
    assert judge(store) == []
    ended(store, 1, RunState.CANCELLED)
    ended(store, 1, RunState.DELIVERED, Outcome.SETUP_FAILED)
    with store.transaction() as session:
        queue_run(session, 1)
        queue_run(session, 2)
    assert judge(store) == [("acme/textkit", 1)]
    assert judge(store) == [], "once"
    assert claimable(store) == 1, "its queued run is held, the other issue's is not"
    with store.transaction() as session:
        kept = quarantine.standing(session, "acme/textkit", 1)
        assert kept is not None
        assert "3 runs in a row brought no result; the last: it broke" in quarantine.words(kept)
        assert quarantine.standing(session, "acme/textkit", 2) is None
        assert quarantine.lift(session, "acme/textkit", 1, by="octo")
        assert not quarantine.lift(session, "acme/textkit", 1, by="octo")
    assert claimable(store) == 2
    assert judge(store) == [], "counting starts anew"


def test_it_ends_by_itself_and_counting_starts_anew(store):
    for _ in range(3):
        ended(store, 1, RunState.FAILED)
    assert judge(store) == [("acme/textkit", 1)]
    with store.transaction() as session:
        queue_run(session, 1)
    assert claimable(store) == 0
    with store.transaction() as session:
        session.execute(update(Quarantine).values(until=func.now()))
    assert claimable(store) == 1
    assert judge(store) == []


def test_a_success_ends_the_streak(store):
    for outcome in (Outcome.UNSOLVED, Outcome.UNSOLVED, Outcome.PARTIAL, Outcome.UNSOLVED):
        ended(store, 1, RunState.DELIVERED, outcome)
    assert judge(store) == []


@pytest.mark.parametrize(
    ("outcome", "kept"), [(Outcome.SETUP_FAILED, [("acme/textkit", None)]), (Outcome.UNSOLVED, [])]
)
def test_a_repository_is_kept_for_what_breaks_and_not_for_hard_issues(store, outcome, kept):
    for number in range(1, 5):
        ended(store, number, RunState.DELIVERED, outcome)
    assert judge(store) == []
    ended(store, 5, RunState.DELIVERED, outcome)
    ended(store, 6, RunState.FAILED, repository="acme/other")
    assert judge(store) == kept
    with store.transaction() as session:
        queue_run(session, 7)
        queue_run(session, 7, repository="acme/other")
    assert claimable(store) == (1 if kept else 2)
