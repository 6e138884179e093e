"""What operators type, and what they are told: over a real database."""

from __future__ import annotations

import json
import socket
from uuid import uuid4

import pytest
from sqlalchemy import update

from agent.outcome import Outcome
from agent.types import Action, Step, ToolCall, Usage
from tests.factories import gpu_worker, queue_run
from worker import errors, exits
from worker.runs import ledger, pausing, states
from worker.store.models import Run, RunState
from worker.store.money import Quarantine

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
        workforce.ready(session, "host:1")
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


def test_what_was_done_is_one_object_for_programs(ask, store):
    with store.transaction() as session:
        from worker.runs import workforce

        run_id = queue_run(session, repository="acme/shop")
        about = {"role": "gpu", "queues": ["q"], "profile": "p", "slots": 2, "isolation": "basic", "version": "1"}
        workforce.register(session, "host:1", **about, lease_seconds=60)
        session.add(Quarantine(repository="acme/shop", issue_number=7, reason="failed"))

    def said(*command):
        return json.loads(ask(*command, "--json"))

    made = said("batches", "create", "--name", "b", "--budget-usd", "2")
    assert (made["name"], made["budget_usd"]) == ("b", 2.0)
    assert said("batches", "budget", made["batch_id"], "3") == {"batch_id": made["batch_id"], "budget_usd": 3.0}
    paused = {"paused": True, "repository": "acme/shop", "known": True, "at_once": False}
    assert said("pause", "--repository", "acme/shop") == paused
    assert said("resume", "--repository", "acme/shop") == {"paused": False, "repository": "acme/shop"}
    assert said("drain", "host") == [{"worker": "host:1", "was_draining": False, "draining": True}]
    assert said("drain", "host", "--undo") == [{"worker": "host:1", "was_draining": True, "draining": False}]
    assert ask("drain", "host", "--undo") == "host:1: was not draining\n"
    cancelled = {"run_id": str(run_id), "state": "cancelled", "cancel_requested": True}
    assert said("runs", "cancel", str(run_id)) == cancelled
    lifted = {"repository": "acme/shop", "issue_number": 7, "lifted": True}
    assert said("quarantine", "lift", "acme/shop#7") == lifted
    assert said("setups", "retry") == {"forgotten": 0}


def test_a_run_that_failed_says_why_in_the_list(ask, store):
    with store.transaction() as session:
        queue_run(session, 1)
        states.override(
            session, queue_run(session, 2), RunState.FAILED, reason="the index\nis \x1b[31mgone " + "x" * 99
        )
        gpu_worker(session)
    _, failed, waiting = ask("runs", "list").splitlines()
    assert failed.endswith(" the index is \\x1b[31mgone xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…")
    assert waiting.endswith("$0.0000")


def test_days_that_end_before_they_begin_are_refused(ask):
    assert "--since is after --until" in ask("spend", "--since", "2026-02-02", "--until", "2026-02-01", status=2)
    assert "--since DATE" in ask("spend", "--help")


def test_amounts_are_those_the_ledger_can_hold(ask):
    for amount in ("99999999.99999999", "100000000", "0.0000001", "0", "-1", "1e99", "1e-99", "NaN", "Infinity"):
        assert "is no amount" in ask("batches", "create", "--name", "c", "--budget-usd", amount, status=2)
    batch = ask("batches", "create", "--name", "c", "--budget-usd", "99999999.9999994").strip()
    assert "is no amount" in ask("batches", "budget", batch, "99999999.9999999", status=2)
    assert ask("batches", "budget", batch, "0.0000005") == f"{batch}: $0.0000\n"
    assert json.loads(ask("batches", "show", batch, "--json"))["budget_usd"] == 0.000001


@pytest.mark.parametrize(
    "command",
    [
        ("drain", "\udcff"),
        ("drain", "w", "--by", "b\udcff"),
        ("pause", "--reason", "b\udcff"),
        ("batches", "create", "--name", "b\udcff"),
        ("batches", "create", "--name", "b", "--by", "b\udcff"),
        ("quarantine", "lift", "acme/shop", "--by", "b\udcff"),
        ("quarantine", "lift", "acme/\udcff"),
        ("spend", "--equivalent", "\udcff"),
        ("demo", "--model", "\udcff"),
        ("demo", "--record", "/proc/x"),
    ],
    ids=ascii,
)
def test_what_is_no_text_or_can_not_be_written_is_refused_with_words(ask, command):
    said = ask(*command, status=2)
    assert "Error: Invalid value" in said
    assert "\udcff" not in said


def test_a_port_that_is_taken_is_told_the_same_by_every_server(ask, monkeypatch, tmp_path):
    script = tmp_path / "script.json"
    monkeypatch.setenv("DEVSTRAL_FIX_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DEVSTRAL_FIX_MODEL", f"scripted:{script}")
    monkeypatch.setenv("DEVSTRAL_FIX_GITHUB_TOKEN", "unused")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("serve", "up"):
            assert f"--port: 127.0.0.1:{port} can't be had: Address already" in ask(
                command, "--port", str(port), status=3
            )
            for wrong in ("0", "-1", "99999"):
                assert "is not in the range" in ask(command, "--port", wrong, status=2)
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        monkeypatch.setenv("DEVSTRAL_FIX_METRICS_LISTEN", f"127.0.0.1:{port}")
        for command in ("serve", "up"):
            said = ask(command, "--port", str(free), status=3)
            assert "DEVSTRAL_FIX_METRICS_LISTEN" in said
            assert f"127.0.0.1:{port} can't be had" in said


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
