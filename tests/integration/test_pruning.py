"""What is forgotten in time, and what never is, against a real Postgres and real directories."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import func, insert, select, text, update

from agent.types import Usage
from tests.factories import issue_request, queue_run
from worker.adapters.repos import GitRepositories
from worker.cli import cli
from worker.demo.github_double.bare import BareRepositories
from worker.prune import PruneRows, PruneRunDirs
from worker.runs import ledger, states
from worker.store import pruning, queries
from worker.store.evidence import Baseline
from worker.store.models import Delivery, DeliveryState, Run, RunState, Spend
from worker.store.steps import Step

DAYS = {"request_days": 30, "delivery_days": 180, "step_days": 180, "baseline_days": 30}


def delivery(store, key: str, *, days: int, state: DeliveryState = DeliveryState.HANDLED) -> None:
    with store.transaction() as session:
        queries.insert_delivery(
            session,
            key=key,
            event="issues",
            action="labeled",
            body_sha256="0" * 64,
            request=issue_request().model_dump(mode="json"),
            state=DeliveryState.RECEIVED,
        )
        old = func.now() - text(f"interval '{days} days'")
        values = {"state": state, "received_at": old, "handled_at": old}
        session.execute(update(Delivery).where(Delivery.key == key).values(**values))


def ended(store, number: int, *, days: int) -> Run:
    """A failed run with one step and one spend."""
    with store.transaction() as session:
        queue_run(session, number)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
        ledger.book(
            session,
            lease,
            call=0,
            profile="small-24b",
            model="m",
            usage=Usage(prompt=1, cached=0, completion=1),
            cost=0.1,
            seconds=1.0,
        )
        session.execute(
            text(
                "INSERT INTO steps (run_id, lease_token, index, thought, actions, prompt_tokens, cached_tokens,"
                " completion_tokens, usd, model_seconds) VALUES (:id, 1, 0, '', '[]', 1, 0, 1, 0, 1)"
            ),
            {"id": lease.run_id},
        )
        states.advance(session, lease, RunState.FAILED)
        run = session.get_one(Run, lease.run_id)
        session.execute(
            update(Run).where(Run.id == lease.run_id).values(finished_at=func.now() - text(f"interval '{days} days'"))
        )
    return run


def count(store, table) -> int:
    with store.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def aged(store):
    delivery(store, "new", days=1)
    delivery(store, "old", days=31)
    delivery(store, "waiting", days=400, state=DeliveryState.RECEIVED)
    delivery(store, "ancient", days=181)
    ended(store, 1, days=1)
    ended(store, 2, days=181)
    with store.transaction() as session:
        for commit, days in (("a", 1), ("b", 31)):
            values = {"repository": "r", "commit": commit, "setup_key": "", "digest": "d", "claim": uuid4()}
            then = func.now() - text(f"interval '{days} days'")
            session.execute(insert(Baseline).values(**values, claimed_until=func.now(), taken_at=then))
    return store


def test_old_rows_go_and_the_ledger_stays(aged, monkeypatch):
    monkeypatch.setattr(pruning, "BATCH", 1)  # more than one round
    prune = PruneRows(store=aged, **DAYS)
    foretold = prune(dry_run=True)
    assert foretold == {"requests": 2, "deliveries": 1, "steps": 1, "baselines": 1}
    assert count(aged, Delivery) == 4, "a dry run changes nothing"
    assert prune() == foretold
    assert prune() == {"requests": 0, "deliveries": 0, "steps": 0, "baselines": 0}
    with aged.transaction() as session:
        left = session.execute(select(Delivery.key, Delivery.request.is_not(None)).order_by(Delivery.key)).all()
    assert [tuple(row) for row in left] == [("new", True), ("old", False), ("waiting", True)]
    assert (count(aged, Run), count(aged, Spend), count(aged, Step), count(aged, Baseline)) == (2, 2, 1, 1)


@pytest.fixture
def repositories(tmp_path):
    bare = BareRepositories(tmp_path / "origin")
    bare.create("acme/textkit", {"README.md": "hello\n"}, "main")
    made = GitRepositories(tmp_path / "data" / "repositories", allow_file=True)
    made.fetch("acme/textkit", f"file://{bare.path('acme/textkit')}", None)
    return made


def test_directories_of_runs_that_ended_go(store, repositories):
    long_ago, just_now = ended(store, 1, days=1), ended(store, 2, days=0)
    with store.transaction() as session:
        live = queue_run(session, 3)
    kept = sorted([str(just_now.id), str(live), "local"])
    for name in [str(long_ago.id), *kept]:
        repositories.run_dir(name, repositories.mirror("acme/textkit"))
    prune = PruneRunDirs(store=store, repositories=repositories)
    assert prune(dry_run=True) == {"run_directories": 1}
    assert len(repositories.run_ids()) == 4
    assert prune() == {"run_directories": 1}
    assert repositories.run_ids() == tuple(kept)


def test_the_command_counts_and_forgets(aged, tmp_path, monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", aged.engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("DEVSTRAL_FIX_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    dry = CliRunner().invoke(cli, ["prune", "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    foretold = {"requests": 2, "deliveries": 1, "steps": 1, "baselines": 1, "run_directories": 0}
    assert json.loads(dry.output) == {"dry_run": True, **foretold}
    real = CliRunner().invoke(cli, ["prune"])
    assert "steps: 1 forgotten" in real.output
    assert count(aged, Spend) == 2
