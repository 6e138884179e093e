"""A worker that is told to end while it starts: it ends at once, with all its processes, and its row says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker_processes import wait_until
from worker.runs import workforce

PROMPT_SECONDS = 5.0
SETTINGS = {"MODEL": "vllm:/models/none"}


@pytest.fixture
def blocked(service):
    """A worker whose engine is starting, and the processes of that."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.blocked_worker"],
        env=service.environment,
        cwd=service.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    below = [int(pid) for pid in process.stdout.readline().split()]
    assert len(below) == 2
    yield process, below
    process.kill()
    process.wait()
    process.stdout.close()
    for pid in below:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def states(service) -> list[tuple[str, str | None]]:
    with service.store.transaction() as session:
        return [(seen.state, seen.failure) for seen in workforce.seen(session, every=True)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_that_starts(service, blocked, number):
    process, below = blocked
    assert states(service) == [("starting", None)]
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(60) == 0
    assert time.monotonic() - started < PROMPT_SECONDS
    assert states(service) == [("stopped", None)]
    wait_until(lambda: not any(map(alive, below)), PROMPT_SECONDS)


@pytest.mark.slow
def test_a_drain_that_stops_ends_a_worker_that_starts(service, blocked):
    """What it would start for nothing, for minutes."""
    process, below = blocked
    done = service.command("drain", "--profile", "small-24b", "--then", "stop", "--wait")
    assert "has ended" in done.stdout, done.stderr
    assert process.wait(60) == 0
    assert states(service) == [("stopped", None)]
    wait_until(lambda: not any(map(alive, below)), PROMPT_SECONDS)


@pytest.mark.slow
def test_a_start_that_fails_is_shown_with_its_reason_until_another_worker_is_there(service):
    """The one line of its log, where the operator looks."""
    done = service.command("work", "--role", "gpu")
    assert (done.returncode, "there is no model directory /models/none" in done.stderr) == (2, True)
    assert [state for state, _ in states(service)] == ["failed"]
    assert "failed (there is no model directory /models/none. Example" in service.command("workers", "list").stdout
    service.settings["MODEL"] = "openai:http://127.0.0.1:1/v1#m"
    with service.worker("gpu"):
        listed = service.command("workers", "list").stdout.splitlines()
    assert len(listed) == 2
    assert "running" in listed[1]
