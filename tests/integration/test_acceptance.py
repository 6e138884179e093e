"""What became of pull requests, by what people compare; and the commands that show it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.factories import queue_run
from worker.store.acceptance import KEYS, acceptance
from worker.store.models import PullRequest, Run

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


def opened(store, number, *, hours=None, merged=False, survived=None, reviewed=None, people=False, **run):
    """A pull request that ended so many hours after it was opened."""
    end = None if hours is None else START + timedelta(hours=hours)
    with store.transaction() as session:
        run_id = queue_run(session, number)
        row = session.get_one(Run, run_id)
        for name, value in {"usd": 0.5, "model": "m", "outcome": "fixed", **run}.items():
            setattr(row, name, value)
        session.add(
            PullRequest(
                run_id=run_id,
                repository=row.repository,
                issue_number=number,
                branch=row.branch,
                number=100 + number,
                url=f"https://github.example/acme/textkit/pull/{100 + number}",
                state="open" if hours is None else "merged" if merged else "closed",
                draft=False,
                head_commit="1" * 40,
                people_head="2" * 40 if people else None,
                created_at=START,
                reviewed_at=None if reviewed is None else START + timedelta(hours=reviewed),
                closed_at=end,
                merged_at=end if merged else None,
                survived=survived,
            )
        )


@pytest.fixture
def some(store):
    opened(store, 1, hours=2, merged=True, survived=1.0, reviewed=1)
    opened(store, 2, hours=4, merged=True, survived=0.5, reviewed=3, people=True, outcome="partial")
    opened(store, 3, hours=10)
    opened(store, 4, model="other")
    return store


def test_figures_by_model(some):
    with some.transaction() as session:
        first, second = acceptance(session, "model")
    assert first == {
        "key": "m",
        "opened": 3,
        "open": 0,
        "merged": 2,
        "closed": 1,
        "accepted": 0.6667,
        "survived": 0.75,
        "hours_to_review": 2.0,
        "hours_to_end": 4.0,
        "usd_per_merged": 0.75,
        "changed_by_people": 1,
    }
    assert (second["key"], second["open"], second["accepted"], second["usd_per_merged"]) == ("other", 1, None, None)


@pytest.mark.parametrize("by", sorted(KEYS))
def test_every_key_counts_each_pull_request_once(some, by):
    with some.transaction() as session:
        assert sum(row["opened"] for row in acceptance(session, by)) == 4


def test_a_branch_costs_what_all_its_runs_cost(some):
    with some.transaction() as session:
        branch = session.query(Run.branch).filter(Run.issue_number == 1).scalar()
        session.query(Run).filter(Run.issue_number == 1).update({"state": "delivered"})
        again = queue_run(session, 1)
        session.query(Run).filter(Run.id == again).update({"usd": 1.0})
        assert session.get_one(Run, again).branch != branch, "its pull request has ended"
        session.query(Run).filter(Run.id == again).update({"branch": branch})
    with some.transaction() as session:
        assert acceptance(session, "model")[0]["usd_per_merged"] == 1.25


def test_people_and_programs_read_it(some, ask):
    told = ask("pulls", "acceptance", "--by", "model")
    assert told.splitlines()[0].split() == [
        *("model", "opened", "open", "merged", "closed", "accepted", "survived", "review", "end", "a", "merge", "costs")
    ]
    assert told.splitlines()[1].split()[1:8] == ["3", "0", "2", "1", "67%", "75%", "2.0"]
    assert json.loads(ask("pulls", "acceptance", "--json"))[0]["opened"] == 4
    listed = json.loads(ask("pulls", "list", "--state", "merged", "--json"))
    assert [(one["number"], one["survived"], one["changed_by_people"]) for one in listed] == [
        (102, 0.5, True),
        (101, 1.0, False),
    ]
    assert "open" in ask("pulls", "list", "--repository", "acme/textkit")
    assert ask("pulls", "list", "--repository", "acme/other") == "None: no pull request.\n"
