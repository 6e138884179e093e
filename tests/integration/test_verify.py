"""The stage that takes the evidence: what it stores, and how runs of one commit share what they can."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from agent.outcome import Outcome
from agent.reports import Case
from tests.factories import issue_request
from tests.fakes import call, say
from tests.integration.world import WRITE, World
from worker.commands import show
from worker.errors import ShuttingDown
from worker.runs import baselines, ledger, requests
from worker.stages.baselines import KeptBaselines
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store import queries
from worker.store.attempts import Attempt
from worker.store.evidence import Baseline
from worker.store.models import Run, RunState

# What a command names is taken as on the base, so it doesn't name what the change makes.
REPORT = (
    'printf \'<testsuite><testcase name="a"/><testcase name="made">%s</testcase></testsuite>\' '
    '"$(ls new* >/dev/null || echo \'<failure/>\')" >"$TEST_REPORT"; ls new*'
)


class Gate:
    """A sandbox that lets nobody in before it is opened, and says when somebody waits."""

    def __init__(self, sandbox):
        self.sandbox, self.isolation, self.capabilities = sandbox, sandbox.isolation, sandbox.capabilities
        self.waiting, self.open_now = threading.Event(), threading.Event()
        self.opened = 0
        self.breaks: Exception | None = None

    def open(self, spec):
        self.opened += 1
        self.waiting.set()
        assert self.open_now.wait(10)
        if self.breaks is not None:
            raise self.breaks
        return self.sandbox.open(spec)


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)
    with store.transaction() as session:
        second, _ = requests.start(
            session,
            issue_request(2),
            clone_url="u",
            base_branch="main",
            base_commit=world.commit,
            profile="small-24b",
            max_attempts=2,
            repository_config={},
        )
    world.both = (world.run_id, second)
    world.pursue(*(call(WRITE), say("done")) * 2)
    with store.transaction() as session:
        config = {"test": REPORT, "test_report_format": "junit", "test_timeout_seconds": 20}
        session.execute(update(Run).values(repository_config=config))
    world.gate = Gate(world.sandbox)
    yield world
    world.gate.open_now.set()
    world.heartbeat.close()


def verify(world) -> Verify:
    return Verify(
        store=world.store,
        heartbeat=world.heartbeat,
        verifier=Verifier(
            sandbox=world.gate, repositories=world.repositories, baselines=KeptBaselines(store=world.store)
        ),
        repositories=world.repositories,
        layers=world.layers,
        send=world.sent.append,
        lease_seconds=60,
    )


def run(world, run_id) -> Run:
    with world.store.transaction() as session:
        return session.get_one(Run, run_id)


def test_what_was_executed_is_stored_and_shown_as_it_was(world):
    first, _ = world.both
    world.gate.open_now.set()
    verify(world)(first)
    assert run(world, first).outcome is Outcome.FIXED, run(world, first).reason
    with world.store.transaction() as session:
        before, after, again = (ledger.stored_evidence(row) for row in queries.evidence(session, first))
        lines = "\n".join(show.lines(show.described(session, first)))
    assert (before.stage, after.stage, again.stage) == ("before", "after", "before_again")
    assert before.counts == again.counts == {Case.PASSED: 1, Case.FAILED: 1}
    assert after.counts == {Case.PASSED: 2}
    assert after.detail.tests["reproduced"].some == ("made",)
    assert "evidence  after: passed, 2 passed (" in lines
    assert "reproduced: made" in lines


def test_a_run_that_finds_another_at_its_baseline_waits_and_is_woken(world):
    """Red without the wake-up in `baselines.keep`, and where the waiting run counts an attempt."""
    first, second = world.both
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(verify(world), first)
        assert world.gate.waiting.wait(10)
        verify(world)(second)
        held = run(world, second)
        assert (held.reason, held.lease_owner, held.outcome, held.attempt) == (baselines.WAITS, None, None, 0)
        assert held.not_before is not None
        assert world.gate.opened == 1
        world.gate.open_now.set()
        working.result(20)
    assert run(world, second).not_before is None, "free at once"
    world.gate.opened = 0
    verify(world)(second)
    assert run(world, second).outcome is Outcome.FIXED
    assert world.gate.opened == 2, "the base is not executed again but to confirm what failed there"
    with world.store.transaction() as session:
        assert queries.evidence(session, second)[0].detail["kept"]
        assert len(session.scalars(select(Baseline)).all()) == 1
        assert len(session.scalars(select(Attempt).where(Attempt.run_id == second)).all()) == 3


def test_whoever_is_broken_off_leaves_the_baseline_to_the_next(world):
    first, second = world.both
    world.gate.open_now.set()
    world.gate.breaks = ShuttingDown("the worker is shutting down")
    verify(world)(first)
    assert (run(world, first).state, run(world, first).outcome) == (RunState.CONCLUDED, None)
    world.gate.breaks = None
    verify(world)(second)
    assert run(world, second).outcome is Outcome.FIXED
