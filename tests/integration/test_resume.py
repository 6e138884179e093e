"""Takeovers against real Postgres, real git and a real sandbox: a run goes on where its lost worker was, or begins anew
and says why."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from sqlalchemy import select, text, update

from agent.protocols import Isolation
from agent.types import ExitStatus, Limits
from tests.fakes import FakeModel, call, say
from tests.integration.world import WRITE, World
from worker.adapters.sandbox import BwrapSandbox
from worker.cli import cli
from worker.commands.show import described, lines
from worker.errors import ModelUnavailable
from worker.runs import states
from worker.store import queries, trajectories
from worker.store.models import Run, RunState, Spend
from worker.store.steps import Step


class Killed(BaseException):
    """The process is gone: nothing of the service handles this, and the lease stays behind."""


class Counting:
    """A real sandbox that counts the agent's commands: what a workspace's tree can't show."""

    capabilities: frozenset[str] = frozenset()
    isolation = Isolation.BASIC

    def __init__(self, inner):
        self.inner = inner
        self.commands: list[str] = []
        self.opened = 0

    def open(self, spec):
        self.opened += 1
        session = self.inner.open(spec)
        plain = session.exec

        def counted(argv, **options):
            self.commands.append(argv[-1])
            return plain(argv, **options)

        session.exec = counted
        return session


class Takeovers(World):
    def __init__(self, store, tmp_path):
        super().__init__(store, tmp_path)
        self.sandbox = Counting(BwrapSandbox(tmp_path / "boxes", isolation=Isolation.BASIC, objects=self.repositories))
        self.models: list[FakeModel] = []

    def pursue(self, *answers, identity: str = "fake", limits: Limits = Limits(), alive: bool = True) -> None:  # noqa: B008
        model = FakeModel(*answers)
        model.identity, model.alive = identity, alive
        self.models.append(model)
        self.pursuer(model, limits=limits)()

    def killed(self, *answers, **options) -> None:
        """A worker is killed while it waits for the answer after these; its lease runs out and the sweep finds it."""

        def die(_deadline, _cancel):
            raise Killed

        with pytest.raises(Killed):
            self.pursue(*answers, die, **options)
        assert self.run.state is RunState.RUNNING
        self.expire()

    def expire(self) -> None:
        with self.store.transaction() as session:
            session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 s'")))
        with self.store.transaction() as session:
            states.expire(session)

    @property
    def history(self):
        with self.store.transaction() as session:
            rows = trajectories.attempts(session, self.run_id)
        return [(row.stage.value, row.first_step, row.ending and row.ending.value, row.counted) for row in rows]

    @property
    def steps(self):
        with self.store.transaction() as session:
            rows = queries.steps(session, self.run_id)
        return [(step.index, self.nth(step.lease_token)) for step in rows]

    @property
    def ledger(self):
        with self.store.transaction() as session:
            rows = session.execute(select(Spend.lease_token, Spend.call).order_by(Spend.id)).all()
        return [(self.nth(token), call) for token, call in rows]

    def nth(self, token: int) -> int:
        """Which attempt, from 1: tokens grow at every takeover, too."""
        with self.store.transaction() as session:
            return [a.lease_token for a in trajectories.attempts(session, self.run_id)].index(token) + 1

    def note(self, attempt: int) -> str:
        with self.store.transaction() as session:
            return trajectories.attempts(session, self.run_id)[attempt - 1].note or ""

    def diff(self) -> str:
        with self.store.transaction() as session:
            row = queries.patch(session, self.run_id)
        assert row is not None
        return row.diff.decode()


@pytest.fixture
def world(store, tmp_path):
    made = Takeovers(store, tmp_path)
    with store.transaction() as session:
        session.execute(update(Run).values(max_attempts=5))
    yield made
    made.heartbeat.close()


def bash(command: str):
    return call(("bash", json.dumps({"command": command})))


def told(model: FakeModel) -> list[str]:
    assert model.conversation is not None
    return [message.model_dump_json() for message in model.conversation.messages]


def test_a_taken_over_run_goes_on_and_executes_nothing_again(world):
    """Red without the recorded progress: the second attempt would begin anew."""
    world.killed(call(WRITE), bash("echo one >> new.txt; mkdir build; echo x > ../outside || true"))
    world.pursue(bash("cat new.txt"), say("Made it."))
    run = world.run
    assert (run.state, run.exit_status, run.summary) == (RunState.CONCLUDED, ExitStatus.SUBMITTED, "Made it.")
    assert [command for command in world.sandbox.commands if "echo one" in command] == [
        "echo one >> new.txt; mkdir build; echo x > ../outside || true"
    ]
    assert "+made\n+one\n" in world.diff()
    assert world.steps == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert world.ledger == [(1, 0), (1, 1), (2, 2), (2, 3)]
    assert run.calls == 4
    first, second = world.models
    assert told(second)[: len(told(first))] == told(first)
    assert world.history == [("pursue", 0, "lease lost", True), ("pursue", 2, "concluded", False)]
    assert world.note(2) == "goes on after step 2"


def test_a_second_takeover_goes_on_from_both(world):
    world.killed(call(WRITE))
    world.killed(bash("echo two >> new.txt"))
    world.pursue(say("Done."))
    assert world.steps == [(0, 1), (1, 2), (2, 3)]
    assert world.ledger == [(1, 0), (2, 1), (3, 2)]
    assert "+made\n+two\n" in world.diff()
    assert [attempt[1] for attempt in world.history] == [0, 1, 2]


def test_a_worker_killed_before_it_knew_where_to_go_on_loses_nothing(world):
    world.killed(call(WRITE))
    with world.store.transaction() as session:
        states.claim_next(session, profile="small-24b", owner="b", seconds=60)
    world.expire()
    world.pursue(say("Done."))
    assert world.steps == [(0, 1), (1, 3)]
    assert [attempt[1] for attempt in world.history] == [0, None, 1]


def test_a_step_lost_between_answer_and_row_is_paid_and_made_anew(world, monkeypatch):
    """The tree is the last recorded one by design; the ledger keeps the call."""
    from worker.runs import ledger

    plain = ledger.record_step

    def die(session, lease, step, **more):
        if step.index == 1:
            raise Killed
        plain(session, lease, step, **more)

    monkeypatch.setattr(ledger, "record_step", die)
    with pytest.raises(Killed):
        world.pursue(call(WRITE), bash("echo lost >> new.txt"))
    monkeypatch.setattr(ledger, "record_step", plain)
    world.expire()
    world.pursue(bash("echo kept >> new.txt"), say("Done."))
    assert world.steps == [(0, 1), (1, 2), (2, 2)]
    assert world.ledger == [(1, 0), (1, 1), (2, 2), (2, 3)]
    assert "+made\n+kept\n" in world.diff()
    assert "lost" not in world.diff()


def test_killed_between_the_last_step_and_the_conclusion_no_model_is_asked_again(world, monkeypatch):
    from worker.runs import ledger

    plain = ledger.record_patch
    monkeypatch.setattr(ledger, "record_patch", lambda *_, **_k: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        world.pursue(call(WRITE), say("Made it."))
    monkeypatch.setattr(ledger, "record_patch", plain)
    world.expire()
    world.pursue()  # a model with no answer at all
    assert (world.run.state, world.run.summary) == (RunState.CONCLUDED, "Made it.")
    assert world.ledger == [(1, 0), (1, 1)]
    assert "+made\n" in world.diff()


@pytest.mark.parametrize("how", ["model is down", "shutdown"])
def test_what_was_given_back_goes_on_too_and_counts_no_attempt(world, how):
    def stopped(_deadline, _cancel):
        world.stopping.set()
        return bash("echo late >> new.txt")

    world.pursue(call(WRITE), ModelUnavailable("503") if how == "model is down" else stopped)
    assert (world.run.state, world.run.attempt) == (RunState.QUEUED, 0)
    world.stopping.clear()
    world.ready_again()
    world.pursue(say("Done."))
    assert world.run.state is RunState.CONCLUDED
    assert "+made\n" in world.diff()
    assert world.history[0] == ("pursue", 0, "given back", False)
    assert world.history[1][1] >= 1


def lose_the_objects(world):
    shutil.rmtree(next((world.repositories._root / "runs").iterdir()))


def lose_one_blob(world):
    git_dir = next((world.repositories._root / "runs").iterdir())
    for pack in (git_dir / "objects" / "pack").glob("pack-*.pack"):
        # As a machine that lost power may leave it: the tree is there, and what it names is not.
        objects = subprocess.run(
            ["git", "verify-pack", "-v", str(pack.with_suffix(".idx"))], capture_output=True, text=True, check=True
        ).stdout
        keep = [line.split()[0] for line in objects.splitlines() if " tree " in line]
        loose = {
            oid: subprocess.run(
                ["git", f"--git-dir={git_dir}", "cat-file", "tree", oid], capture_output=True, check=True
            ).stdout
            for oid in keep
        }
        for part in pack.parent.glob(f"{pack.stem}.*"):
            part.unlink()
        for data in loose.values():
            subprocess.run(
                ["git", f"--git-dir={git_dir}", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
                input=data,
                capture_output=True,
                check=True,
            )


@pytest.mark.parametrize(
    ("change", "options", "why"),
    [
        (None, {"identity": "openai:another"}, "another model (fake)"),
        (None, {"limits": Limits(context_tokens=2000)}, "told something else"),
        (lose_the_objects, {}, "not on this machine"),
        (lose_one_blob, {}, "not on this machine"),
        ("old", {}, "not recorded as a whole"),
    ],
    ids=["model", "prompt", "objects", "blob", "rows of before"],
)
def test_steps_that_can_not_be_used_are_left_behind_with_the_reason(world, change, options, why):
    with world.store.transaction() as session:
        session.execute(update(Run).values(issue_body="word " * 2000))
    world.killed(call(WRITE), bash("echo one >> new.txt"))
    if change == "old":
        with world.store.transaction() as session:
            session.execute(update(Step).where(Step.index == 0).values(answer=None))
    elif change is not None:
        change(world)
    seen = []

    def look(_deadline, _cancel):
        seen.append(world.run.reason)
        return call(WRITE)

    world.killed(look, **options)
    assert why in world.note(2)
    assert seen == [world.note(2)], "people see it while the run is at work"
    assert world.steps == [(0, 2)], "one trajectory: nothing of the one before"
    world.pursue(say("Done."), **options)
    assert world.steps == [(0, 2), (1, 3)]
    assert [attempt[1] for attempt in world.history] == [0, 0, 1]
    assert world.ledger == [(1, 0), (1, 1), (2, 0), (3, 1)], "the ledger keeps what both have spent"
    run = world.run
    assert (run.state, run.calls, run.prompt_tokens) == (RunState.CONCLUDED, 4, 400)
    assert "one" not in world.diff()


def test_money_is_the_runs_whatever_becomes_of_its_steps(world):
    limits = Limits(usd=0.0087)  # a call costs 0.00012; before it, 0.0084 are set aside
    world.killed(call(WRITE), bash("true"), limits=limits)
    world.pursue(call(WRITE), say("never"), identity="another", limits=limits)
    assert world.run.exit_status is ExitStatus.LIMITS_EXCEEDED
    assert world.run.calls == 3


def test_a_plain_gc_by_hand_loses_no_tree(world):
    """Red without `_keep_everything`."""
    world.killed(call(WRITE))
    git_dir = next((world.repositories._root / "runs").iterdir())
    for path in (git_dir / "objects").rglob("*"):
        subprocess.run(["touch", "-d", "2020-01-01", str(path)], check=True)
    subprocess.run(["git", f"--git-dir={git_dir}", "gc", "-q"], check=True, capture_output=True)
    world.pursue(say("Done."))
    assert world.note(2) == "goes on after step 1"
    assert "+made\n" in world.diff()


def test_a_dead_model_claims_nothing(world):
    world.pursue(alive=False)
    assert world.run.state is RunState.QUEUED
    assert world.history == []


def test_after_max_attempts_it_has_failed_and_shows_who_when_and_how(world, monkeypatch):
    with world.store.transaction() as session:
        session.execute(update(Run).values(max_attempts=2))
    world.killed(call(WRITE))
    world.killed(bash("true"))
    run = world.run
    assert (run.state, run.attempt) == (RunState.FAILED, 2)
    assert "given up" in (run.reason or "")
    with world.store.transaction() as session:
        data = described(session, world.run_id)
    assert data is not None
    assert [(a["ending"], a["counted"], a["spend"]["calls"]) for a in data["attempts"]] == [("lease lost", True, 1)] * 2
    assert all(a["owner"] and a["started_at"] <= a["ended_at"] for a in data["attempts"])
    assert [step["tools"] for step in data["steps"]] == [["write_file"], ["bash"]]
    shown = "\n".join(lines(data))
    assert shown.count("lease lost (counted)") == 2
    assert "goes on after step 1" in shown

    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", world.store.engine.url.render_as_string(hide_password=False))
    done = CliRunner().invoke(cli, ["runs", "show", str(world.run_id), "--json"])
    assert json.loads(done.output) == data
    assert "failed" in CliRunner().invoke(cli, ["runs", "show", str(world.run_id)]).output
    none = CliRunner().invoke(cli, ["runs", "show", "01990000-0000-7000-8000-000000000000"])
    assert (none.exit_code, "there is no run" in none.output) == (1, True)
