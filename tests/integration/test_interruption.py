"""How work is told to stop, and how soon: against real Postgres, a real model server over HTTP, and a real sandbox."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from sqlalchemy import text, update

from agent.protocols import Isolation
from agent.tokens import TokenCounter
from tests.factories import queue_run
from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.fakes import call, say
from tests.integration.world import WRITE, World, taken_over_during
from tests.worker_processes import processes, wait_until
from worker.adapters.models import open_model
from worker.adapters.sandbox import BwrapSandbox
from worker.errors import DeadlinePassed, LeaseLost, ShuttingDown
from worker.heartbeat import Heartbeat
from worker.holding import Interruption
from worker.runs import requests, states
from worker.shutdown import Shutdown
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store.models import Run, RunState, Spend
from worker.store.pg_notify import Listener
from worker.store.steps import Step

SLACK_SECONDS = (
    10.0  # for a machine that does much else: without a notice it would be an hour, without an abort for ever
)


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)  # its heartbeat beats once in 20 minutes: only a notice can be quick
    listener = Listener(store, world.heartbeat.look)
    assert listener.connected.wait(30)
    yield world
    listener.close()
    world.heartbeat.close()


@contextmanager
def meanwhile(world, work, *arguments):
    """The work in a thread of its own. Whatever of it is left at the end is broken off: a test that fails must end."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work, *arguments)
        finally:
            world.heartbeat.interrupt_all()


def cancelled_at(world) -> float:
    with world.store.transaction() as session:
        requests.cancel(session, world.run_id, by="ann")
    return time.monotonic()


def test_a_model_call_in_flight_is_aborted_and_its_server_sees_it(world):
    """Red without the notice, as are the two below that cancel."""
    with FakeOpenAIServer(Reply(hang="before")) as server:
        model = open_model(f"openai:{server.url}#m", counter=TokenCounter(None))
        with meanwhile(world, world.pursuer(model)) as pursuing:
            assert server.hanging.wait(30)
            asked = cancelled_at(world)
            assert server.disconnected.wait(SLACK_SECONDS), "the connection stayed open"
            pursuing.result(30)
            print(f"stopped after {time.monotonic() - asked:.2f} s")
        model.close()
    assert (world.run.state, world.run.reason) == (RunState.CANCELLED, "cancelled by ann")


def test_a_running_command_is_killed(world, tmp_path):
    tmp_path.chmod(0o711)
    word = f"901.{time.monotonic_ns() % 10**9:09d}"
    command = Reply(calls=((None, "bash", json.dumps({"command": f"sleep {word}"})),))
    with FakeOpenAIServer(command) as server:
        model = open_model(f"openai:{server.url}#m", counter=TokenCounter(None))
        world.sandbox = BwrapSandbox(tmp_path / "sandboxes", isolation=Isolation.BASIC, objects=world.repositories)
        with meanwhile(world, world.pursuer(model)) as pursuing:
            wait_until(lambda: processes(word))
            asked = cancelled_at(world)
            wait_until(lambda: not processes(word), SLACK_SECONDS)
            print(f"stopped after {time.monotonic() - asked:.2f} s")
            pursuing.result(30)
        model.close()
    assert world.run.state is RunState.CANCELLED


class HangingSandbox:
    """Its command ends when it is cancelled, or never."""

    isolation = Isolation.BASIC
    capabilities: frozenset[str] = frozenset()

    def __init__(self, inner):
        self._inner = inner
        self.running, self.release = Event(), Event()

    def open(self, spec):
        session = self._inner.open(spec)
        run = session.exec

        def hang(argv, *, cancel=None, **options):
            self.running.set()
            assert cancel is not None
            assert cancel.wait(60)
            return run(["true"], **options)

        session.exec = hang
        return session


def test_a_verification_ends_when_its_run_is_cancelled_and_writes_nothing(world):
    world.pursue(call(WRITE), say("done"))
    with world.store.transaction() as session:
        session.execute(update(Run).values(repository_config={"test": "true"}))
    sandbox = HangingSandbox(world.sandbox)
    verify = Verify(
        store=world.store,
        heartbeat=world.heartbeat,
        verifier=Verifier(sandbox=sandbox, repositories=world.repositories),
        repositories=world.repositories,
        layers=world.layers,
        send=world.sent.append,
        lease_seconds=60,
    )
    world.sent.clear()
    with meanwhile(world, verify, world.run_id) as verifying:
        assert sandbox.running.wait(30)
        cancelled_at(world)
        verifying.result(SLACK_SECONDS)
    assert (world.run.state, world.run.outcome) == (RunState.CANCELLED, None)
    assert world.sent == []


def test_a_shutdown_lets_a_step_end_and_does_not_keep_one_that_was_broken_off(world):
    world.pursue(taken_over_during(say("x"), world.stopping.set), say("never"))
    assert (world.run.state, world.run.attempt, world.count(Spend), world.count(Step)) == (RunState.QUEUED, 0, 1, 1)
    world.stopping.clear()
    world.pursue(taken_over_during(say("y"), world.heartbeat.interrupt_all))
    run = world.run
    assert (run.state, run.exit_status, run.attempt) == (RunState.QUEUED, None, 0), (
        "the end of a worker is no run's end"
    )
    assert (world.count(Spend), world.count(Step)) == (2, 1), "paid for, and not kept"


def test_a_cancel_that_came_as_the_agent_ended_is_kept(world):
    def late() -> None:
        with world.store.transaction() as session:
            session.execute(update(Run).values(cancel_requested="ann"))

    world.pursue(say("x"), taken_over_during(say("done"), late))
    assert (world.run.state, world.run.reason) == (RunState.CANCELLED, "cancelled by ann")


def test_a_cancelled_run_that_is_given_back_ends(world):
    def both() -> None:
        with world.store.transaction() as session:
            session.execute(update(Run).values(cancel_requested="ann"))
        world.stopping.set()

    world.pursue(taken_over_during(say("x"), both), say("never"))
    assert (world.run.state, world.run.reason) == (RunState.CANCELLED, "cancelled by ann")


def test_a_deadline_is_ours_and_what_does_not_come_back_is_left_to_the_sweep(store, caplog):
    heartbeat = Heartbeat(store, seconds=3600, unresponsive=0.2)
    with store.transaction() as session:
        run_id = queue_run(session)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
    with heartbeat.hold(lease, stage="pursue", seconds=0.1) as holding:
        assert holding.cancel.wait(10), "the watchdog's own clock, not the beat"
        assert holding.why is Interruption.DEADLINE
        with pytest.raises(DeadlinePassed, match="pursue: not done after 0 s"):
            holding.check()
        wait_until(lambda: holding.abandoned, 10)
        with store.transaction() as session:
            session.execute(text("UPDATE runs SET lease_expires_at = now() - interval '1 s'"))
        heartbeat.beat()
        with store.transaction() as session:
            assert states.expire(session) == [(run_id, RunState.QUEUED)], "its lease was not renewed"
    heartbeat.close()
    assert "alarm_work_hangs" in [record.message for record in caplog.records]


def test_a_hanging_model_ends_by_the_stage_s_deadline_and_is_tried_again(world):
    def hang(_deadline, cancel):
        for work in world.heartbeat.held():
            work.limit(0)
        world.heartbeat.guard()
        assert cancel.is_set()
        return say("too late")

    world.pursue(hang)
    run = world.run
    assert (run.state, run.attempt) == (RunState.QUEUED, 1)
    assert "pursue: not done after" in (run.reason or "")


def test_what_hangs_at_the_end_of_a_process_is_handed_back(store):
    heartbeat = Heartbeat(store, seconds=3600)
    with store.transaction() as session:
        queue_run(session)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
    with heartbeat.hold(lease) as holding:
        heartbeat.interrupt_all()
        with pytest.raises(ShuttingDown):
            holding.check()
        Shutdown(store, heartbeat, grace=0).hand_back()
    with store.transaction() as session:
        run = session.get_one(Run, lease.run_id)
        assert (run.state, run.attempt, run.lease_owner) == (RunState.QUEUED, 0, None)
    with heartbeat.watch("later", seconds=60) as work:
        assert work.why is Interruption.SHUTDOWN, "nothing begins any more"
    heartbeat.close()


def test_a_worker_that_lost_what_it_works_with_ends_as_people_end_it_but_says_that_it_failed(store):
    heartbeat, asked = Heartbeat(store, seconds=3600), threading.Event()
    shutdown = Shutdown(store, heartbeat, grace=60)
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        assert shutdown.status == 0
        shutdown.fail("the engine died")
        assert asked.wait(10)
        assert shutdown.status == 1
    finally:
        signal.signal(signal.SIGTERM, before)
        heartbeat.close()


def test_work_that_nobody_wants_any_more_is_interrupted(store):
    heartbeat = Heartbeat(store, seconds=3600)
    wanted = threading.Event()
    wanted.set()
    with heartbeat.watch("setup", seconds=60, wanted=lambda _: wanted.is_set()) as work:
        heartbeat.look(None)
        assert work.why is None
        wanted.clear()
        heartbeat.look(None)
        with pytest.raises(LeaseLost):
            work.check()
    heartbeat.close()


def test_a_lost_connection_is_made_again_and_everything_looked_at(store):
    heard = []
    seen = threading.Semaphore(0)

    def hear(run_id) -> None:
        heard.append(run_id)
        seen.release()

    listener = Listener(store, hear)
    assert seen.acquire(timeout=30)
    with store.transaction() as session:
        killed = session.scalars(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        ).all()
    assert killed == [True]
    assert seen.acquire(timeout=30)
    with store.transaction() as session:
        run_id = queue_run(session)
        requests.cancel(session, run_id, by="ann")
    assert seen.acquire(timeout=30)
    listener.close()
    assert heard == [None, None, run_id]
