"""What operators type, and what they are told: over a real database."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from sqlalchemy import update

from agent.outcome import Outcome
from agent.types import Action, Step, ToolCall, Usage
from tests.factories import queue_run
from worker import errors, exits
from worker.runs import ledger, pausing, states
from worker.store.models import Run, RunState

MALFORMED = ("", "acme", "acme/", "/shop", "acme/shop/x", "acme/shop#7", "a b/c", "acme/shöp", "https://host/acme/shop")


@pytest.mark.parametrize("repository", MALFORMED)
def test_a_repository_has_to_be_well_formed(ask, store, repository):
    for command in ("pause", "resume"):
        assert "is not OWNER/REPO" in ask(command, "--repository", repository, status=2)
    with store.transaction() as session:
        assert pausing.pauses(session) == []


def test_a_pause_of_a_repository_nobody_knows_works_and_says_so(ask, store):
    with store.transaction() as session:
        queue_run(session, repository="acme/shop")
    assert ask("pause", "--repository", "Acme/Shop") == "paused: Acme/Shop\n"
    assert "nothing was ever asked of this repository" in ask("pause", "--repository", "acme/shopp")
    with store.transaction() as session:
        assert [pause.scope for pause in pausing.pauses(session)] == ["acme/shop", "acme/shopp"]
    assert "resumed" in ask("resume", "--repository", "acme/shop")
    assert "was not paused: acme/shop" in ask("resume", "--repository", "acme/shop", status=1)


def test_a_run_that_has_ended_is_not_cancelled_again(ask, store):
    with store.transaction() as session:
        waiting, done = queue_run(session, 1), queue_run(session, 2)
        for state in (RunState.CONCLUDED, RunState.DELIVERED):
            states.override(session, done, state, outcome=Outcome.FIXED)
    assert ask("runs", "cancel", str(waiting), "--by", "ann") == f"{waiting}: cancelled\n"
    assert "has ended: cancelled (cancelled by ann)" in ask("runs", "cancel", str(waiting), status=1)
    assert "has ended: delivered, fixed" in ask("runs", "cancel", str(done), status=1)
    assert "there is no run" in ask("runs", "cancel", str(uuid4()), status=1)
    ask("runs", "cancel", "7", status=2)


def test_attempts_are_numbered_from_one(ask, store):
    with store.transaction() as session:
        run_id = queue_run(session)
    for _ in range(2):
        with store.transaction() as session:
            lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
            session.execute(update(Run).values(lease_token=lease.token + 5))  # an operator's writes grow it, too
            states.override(session, run_id, RunState.QUEUED)
    shown = [line.split()[:2] for line in ask("runs", "show", str(run_id)).splitlines() if line.startswith("attempt")]
    assert shown == [["attempt", "1"], ["attempt", "2"]]
    assert '"token": 8' in ask("runs", "show", str(run_id), "--json")


def test_workers_have_a_heading(ask, store):
    with store.transaction() as session:
        from worker.runs import workforce

        about = {"role": "gpu", "queues": ["q"], "profile": "p", "slots": 2, "isolation": "basic", "version": "1"}
        workforce.register(session, "host:1", **about, lease_seconds=60)
    head, row = ask("workers", "list").splitlines()
    assert head.split()[:4] == ["worker", "role", "state", "slots"]
    assert row.split()[:4] == ["host:1", "gpu", "running", "2"]
    assert head.index("state") == row.index("running")
    assert "no worker's name begins with" in ask("drain", "nobody", status=1)


def test_a_database_that_is_away_and_settings_that_are_wrong(ask, monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    for command in (("runs", "list"), ("prune",), ("migrate",), ("spend",)):
        assert "127.0.0.1" in ask(*command, status=3)
    monkeypatch.setenv("DEVSTRAL_FIX_REDIS_URL", "localhost:6379")
    for command in (("serve",), ("work", "--role", "gpu"), ("beat",), ("up",), ("doctor",), ("runs", "list")):
        assert "DEVSTRAL_FIX_REDIS_URL: its scheme is none of redis" in ask(*command, status=2)
    monkeypatch.delenv("DEVSTRAL_FIX_REDIS_URL")
    monkeypatch.delenv("DEVSTRAL_FIX_DATABASE_URL")
    assert "DEVSTRAL_FIX_DATABASE_URL is not set" in ask("serve", status=2)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.SettingsError("x"), 2),
        (errors.ModelUnavailable("x"), 3),
        (errors.ForgeRefused("x"), 3),
        (errors.IsolationMissing("x"), 3),
        (errors.BadPatch("x"), 1),
        (errors.LeaseLost("x"), 1),
    ],
)
def test_what_errors_end_a_command_with(error, status):
    assert exits.of(error) == status


EVIL = "evil\x1b]52;c;Zm9v\x07\u202e\u2066"


def is_harmless(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def test_a_tools_name_that_a_model_made_up_steers_no_terminal(ask, store):
    with store.transaction() as session:
        run_id = queue_run(session)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        made_up = ToolCall(id="call00000", name=EVIL, arguments="{}")
        action = Action(call=made_up, observation="no such tool", ok=False, malformed=True, seconds=0.0)
        step = Step(index=0, thought="", actions=(action,), usage=Usage(), usd=0.0, model_seconds=0.1)
        ledger.record_step(session, lease, step)
    shown = ask("runs", "show", str(run_id))
    assert is_harmless(shown)
    assert r"evil\x1b]52;c;Zm9v\x07\u202e\u2066" in shown
    as_json = ask("runs", "show", str(run_id), "--json")
    assert is_harmless(as_json)
    assert json.loads(as_json)["steps"][0]["tools"] == [EVIL]


def test_who_paused_and_why_steer_no_terminal_and_forge_no_line(ask, store):
    ask("pause", "--by", EVIL, "--reason", "first\npaused: nothing")
    shown = ask("runs", "list")
    assert is_harmless(shown)
    assert r"first\npaused: nothing" in shown
    assert r"evil\x1b]52" in shown
    assert not [line for line in shown.splitlines() if line.startswith("paused: nothing")]
