"""Rows 9, 10 and 14: processes, memory and processor time, each limit taken away once."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable

import pytest

from agent.protocols import ExecStatus
from tests.alive import alive
from tests.attacks import removal
from tests.attacks.probes import ALLOCATE, BOMB, BURN, FORKS, SPREAD, inside, outside, refused_too
from tests.sandboxes import sh
from worker.adapters.sandbox import command

STRICT = pytest.mark.parametrize("level", ["strict"], indirect=True)
BASIC = pytest.mark.parametrize("level", ["basic"], indirect=True)
MANY = 300  # forks, all reaped
BOUNDED_FORKS = "9 more forks than the 60 allowed"
BOMBED_SECONDS = 2.0


# -- 9: processes ------------------------------------------------------------------------------------------------------


def test_forks_are_bounded(box, row):
    with box.session(processes=60) as session:
        got = inside(session, FORKS, MANY)
        assert got == "EAGAIN"
        assert subprocess.run(["true"], check=True).returncode == 0
    control = outside(FORKS, MANY)
    assert control == "open"
    row(BOUNDED_FORKS, got, control=f"{control}: {MANY}")


def test_a_fork_bomb_is_gone_a_second_after_its_time(box, row):
    """The control is bounded: what it shows is that such a process can be found, and that the host has room."""
    marker = f"bomb-{os.getpid()}"
    with box.session(processes=60) as session:
        started = time.monotonic()
        done = session.exec(["python3", "-I", "-c", BOMB, marker], timeout=BOMBED_SECONDS)
        over = time.monotonic() - started - BOMBED_SECONDS
        left = alive(marker)
        assert subprocess.run(["true"], check=True).returncode == 0
        assert sh(session, "echo still").stdout.text == "still\n"
    assert done.status in {ExecStatus.TIMEOUT, ExecStatus.PIDS}
    assert left == []
    assert over <= 1.0
    control = outside(FORKS, MANY)
    assert control == "open"
    outcome = f"{done.status.value}; all gone {over:.2f} s after its time"
    row("9 fork bomb", outcome, control=f"{control}: {MANY} forks, none refused")


@BASIC
def test_what_the_limit_of_processes_keeps_closed(box, row, monkeypatch):
    removal.ulimits(monkeypatch, 2, 5000)
    with box.session(processes=60) as session:
        got = inside(session, FORKS, MANY)
    assert got == "open"
    row(BOUNDED_FORKS, f"{got}: {MANY}", without="ulimit -u")


def test_limits_are_hard(box, row, monkeypatch):
    """A limit that is only soft can be raised by whoever has it."""
    raised = "ulimit -S -n 1025 2>/dev/null && echo open || echo refused"
    with box.session() as session:
        assert sh(session, "ulimit -n; ulimit -c; ulimit -Hn").stdout.text.split() == ["1024", "0", "1024"]
        got = sh(session, raised).stdout.text.strip()
    assert got == "refused"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 1025
    words = ["sh", "-c", f"ulimit -S -n 1024; {raised}"]
    control = subprocess.run(words, capture_output=True, check=True, text=True).stdout.strip()
    row("9 raise a limit again", got, control=control)
    soft = command._PRELUDE.replace("ulimit -n", "ulimit -S -n")
    assert soft != command._PRELUDE
    monkeypatch.setattr(command, "_PRELUDE", soft)
    with box.session() as session:
        got = sh(session, raised).stdout.text.strip()
    assert got == control == "open"
    row("9 raise a limit again", got, without="hard limits (ulimit -S instead)")


# -- 10: memory --------------------------------------------------------------------------------------------------------


def attempt(session, code: str, size: int) -> str:
    """How an allocation ended: `open`, or by whom it was stopped."""
    done = session.exec(["python3", "-I", "-c", code, str(size)], timeout=30)
    return done.status.value if done.status is not ExecStatus.EXIT else (done.stdout.text.strip() or "killed")


def test_memory_is_bounded(box, row):
    with box.session(memory_bytes=256 << 20) as session:
        got = attempt(session, ALLOCATE, 400)
    assert got in {"oom", "MemoryError"}
    row("10 allocate 400 MiB of 256", got, control=refused_too(outside(ALLOCATE, 400)))


@BASIC
def test_what_the_limit_of_memory_keeps_closed(box, row, monkeypatch):
    removal.ulimits(monkeypatch, 1, 1 << 30)
    with box.session(memory_bytes=256 << 20) as session:
        got = inside(session, ALLOCATE, 400)
    assert got == "open"
    row("10 allocate 400 MiB of 256", got, without="ulimit -d")


@STRICT
def test_memory_is_bounded_over_processes(box, row):
    """Several that are small each: only a control group adds them up."""
    with box.session(memory_bytes=256 << 20) as session:
        got = attempt(session, SPREAD, 80)
    assert got in {"oom", "killed"}
    control = outside(SPREAD, 80)
    assert control == "open"
    row("10 allocate six times 80 MiB of 256", got, control=control)


@BASIC
def test_memory_is_not_bounded_over_processes_in_basic(box, row):
    with box.session(memory_bytes=256 << 20) as session:
        got = attempt(session, SPREAD, 80)
    assert got == "open"
    row("10 allocate six times 80 MiB of 256", got, without="control groups (strict only)")


# -- 14: processor time ------------------------------------------------------------------------------------------------

# The first is too little to be had by chance, however busy the machine is.
QUOTAS = {0.05: 0.1, 0.5: 0.6}
LITTLE = min(QUOTAS)


def above(allowed: float, burn: Callable[[], float]) -> float:
    """Processor-seconds per second where nothing holds them down: on a busy machine the fifth try may be the first to
    get as much as a limit would forbid."""
    used = 0.0
    for _ in range(5):
        used = max(used, burn())
        if used > allowed:
            break
    return used


@STRICT
@pytest.mark.parametrize("cpus", QUOTAS)
def test_processor_time_is_bounded(box, row, cpus):
    with box.session(cpus=cpus) as session:
        used = float(inside(session, BURN))
    assert used <= QUOTAS[cpus]
    control = above(QUOTAS[cpus], lambda: float(outside(BURN)))
    assert control > QUOTAS[LITTLE]
    said = "open" if control > QUOTAS[cpus] else "a busy machine gave no more"
    row(f"14 four burners at {cpus} cpus", f"{used:.2f} cpu/s", control=f"{said}: {control:.2f} cpu/s")


@BASIC
def test_processor_time_is_not_bounded_in_basic(box, row):
    with box.session(cpus=LITTLE) as session:
        used = above(QUOTAS[LITTLE], lambda: float(inside(session, BURN)))
    assert used > QUOTAS[LITTLE]
    row(f"14 four burners at {LITTLE} cpus", f"open: {used:.2f} cpu/s", without="control groups (strict only)")
