"""Real worker processes that are told to stop: SIGTERM, a cancel, a drain. Model server and database are real, too."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.worker_processes import processes, wait_until
from worker import wakes
from worker.store.models import RunState

DONE = Reply(content="done")
PROMPT_SECONDS = 5.0  # mostly over before `cancel` has returned; what else would end a step is minutes away


def endless(word: str) -> Reply:
    return Reply(calls=((None, "bash", json.dumps({"command": f"sleep {word}", "timeout": 300})),))


@pytest.fixture
def word():
    """Seconds to sleep that no other test sleeps: how a command is found among the machine's processes."""
    return f"{900 + os.getpid() % 97}.{time.monotonic_ns() % 10**9:09d}"


def model(service, server, **settings):
    service.settings |= {"MODEL": f"openai:{server.url}#m", **settings}


def test_sigterm_breaks_off_after_the_grace_and_another_worker_goes_on(service, word):
    """One run is in a model call that hangs, one in a command that sleeps; neither is left behind or counted."""
    with FakeOpenAIServer(Reply(hang="before"), endless(word), *[DONE] * 4) as server:
        model(service, server, SHUTDOWN_GRACE_SECONDS="1")
        runs = [service.queue(1), service.queue(2)]
        with service.worker("gpu") as process:
            assert server.hanging.wait(60)
            wait_until(lambda: processes(word))
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            assert process.wait(60) == 0
            seconds = time.monotonic() - started
        assert seconds >= 1, "the grace was given"
        assert server.disconnected.is_set()
        assert not processes(word)
        for run_id in runs:
            run = service.run(run_id)
            assert (run.state, run.attempt, run.lease_owner) == (RunState.QUEUED, 0, None)
        with service.worker("gpu", "second"):  # the permits were sent again by the one that ended
            wait_until(lambda: all(service.run(run_id).state is RunState.CONCLUDED for run_id in runs))
        assert all(service.run(run_id).attempt == 0 for run_id in runs)


@pytest.mark.slow
def test_a_second_sigterm_ends_the_grace(service):
    with FakeOpenAIServer(Reply(hang="before")) as server:
        model(service, server, SHUTDOWN_GRACE_SECONDS="600")
        run_id = service.queue()
        with service.worker("gpu") as process:
            assert server.hanging.wait(60)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: "shutdown" in (service.directory / "worker.log").read_text().lower())
            assert process.poll() is None
            assert service.run(run_id).state is RunState.RUNNING, "it may still reach the end of its step"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert service.run(run_id).state is RunState.QUEUED


def test_a_cancel_reaches_a_running_worker_at_once(service, word):
    """It stops within the step that is under way. One run is in a model call, one in a command, and each would take
    minutes; with a lease of an hour no beat comes to help. Red without the notice."""
    with FakeOpenAIServer(Reply(hang="before"), endless(word)) as server:
        model(service, server, LEASE_SECONDS="3600")
        service.queue(1), service.queue(2)
        with service.worker("gpu"):
            assert server.hanging.wait(60)
            wait_until(lambda: processes(word))
            for run_id in [run.id for run in service.runs()]:
                done = service.command("runs", "cancel", str(run_id), "--by", "ann")
                assert "cancel requested" in done.stdout, done.stderr
                took = wait_until(lambda r=run_id: service.run(r).state is RunState.CANCELLED, PROMPT_SECONDS)
                print(f"cancelled {took:.2f} s after the command returned")
                assert service.run(run_id).reason == "cancelled by ann"
            assert server.disconnected.is_set()
            assert not processes(word)
            assert len(server.requests) == 2, "no step after the one under way"


@pytest.mark.slow
def test_a_drained_worker_leaves_permits_to_others_and_says_so(service):
    with FakeOpenAIServer(*[DONE] * 4) as server:
        model(service, server)
        with service.worker("gpu") as first:
            name = json.loads(service.command("workers", "list", "--json").stdout)[0]["name"]
            assert name.endswith(f":{first.pid}")
            assert "takes nothing more" in service.command("drain", name, "--by", "ann").stdout
            log = service.directory / "worker.log"
            wait_until(lambda: '"draining"' in log.read_text())
            service.queue(1)
            (listed,) = json.loads(service.command("workers", "list", "--json").stdout)
            assert (listed["state"], listed["drain_requested_by"], listed["holds"]) == ("drained", "ann", [])
            assert service.runs()[0].state is RunState.QUEUED
            with service.worker("gpu", "second"):
                wait_until(lambda: service.runs()[0].state is RunState.CONCLUDED)
            assert "run_claimed" not in log.read_text()
            assert "takes permits again" in service.command("drain", name, "--undo").stdout
            service.queue(2)
            wait_until(lambda: service.runs()[1].state is RunState.CONCLUDED)
            assert "run_claimed" in log.read_text()


@pytest.mark.slow
def test_a_pause_holds_what_is_queued_and_a_resume_lets_it_go_at_once(service):
    service.settings |= {"GITHUB_TOKEN": "unused", "GITHUB_URL": "http://127.0.0.1:1"}
    with FakeOpenAIServer(*[DONE] * 2) as server:
        model(service, server)
        with service.worker("gpu"), service.worker("default", "default"):
            assert service.command("pause", "--reason", "maintenance").returncode == 0
            run_id = service.queue()
            for _ in range(3):
                service.wake(wakes.sweep())
            done = service.command("runs", "list")
            assert "paused by operator: maintenance" in done.stderr
            assert "queued" in done.stdout
            assert service.run(run_id).state is RunState.QUEUED
            assert "run_claimed" not in (service.directory / "worker.log").read_text()
            assert "resumed: everything" in service.command("resume").stdout
            wait_until(lambda: service.run(run_id).state is RunState.CONCLUDED)
            again = service.command("resume")
            assert (again.returncode, "was not paused" in again.stderr) == (1, True)
