"""Gates with real threads: who is admitted, who waits, and who is told that room came back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.protocols import ExecStatus
from tests.fakes import workspace
from worker.gated_sandbox import GatedSession
from worker.gates import CommandGate, TokenGate
from worker.observe import Watch


def test_trajectories_are_admitted_while_their_mean_contexts_fit():
    gate = TokenGate(lambda: 100, expected=40)
    assert [gate.enter() for _ in range(3)] == [True, True, False]
    assert not gate.room()
    told = threading.Event()
    gate.when_room(told.set)
    gate.leave()
    assert told.is_set()
    assert gate.room()
    assert gate.load().holding == 1


def test_the_wait_of_a_full_gate_ends_when_room_comes_back_and_is_told_with_the_next_admission(monkeypatch):
    clock, told = [100.0], []
    monkeypatch.setattr("worker.gates.time.monotonic", lambda: clock[0])
    gate = TokenGate(lambda: 40, expected=40, waited=told.append)
    assert gate.enter()
    clock[0] = 103
    assert not gate.room()
    clock[0] = 104
    assert not gate.enter()
    assert gate.load().waiting == 1
    clock[0] = 110
    gate.leave()
    assert gate.load().waiting == 0
    clock[0] = 150  # nobody asked for anything
    assert gate.enter()
    assert told == [0.0, 7.0]
    load = gate.load()
    assert (load.holding, load.waiting, load.waited, load.waited_seconds) == (1, 0, 1, 7.0)


def test_one_is_always_admitted_and_none_is_refused_without_a_capacity():
    small = TokenGate(lambda: 10, expected=40)
    assert [small.enter(), small.enter()] == [True, False]
    unlimited = TokenGate(lambda: None, expected=40)
    assert all(unlimited.enter() for _ in range(100))


def test_the_capacity_is_asked_anew():
    capacity = [40]
    gate = TokenGate(lambda: capacity[0], expected=40)
    assert gate.enter()
    assert not gate.room()
    capacity[0] = 80
    assert gate.enter()


def waiting(gate: CommandGate, count: int) -> None:
    """Until so many wait."""
    while gate.load().waiting < count:
        pass


def test_commands_wait_in_order_and_are_told_how_long():
    gate, order, waits = CommandGate(1), [], []

    def command(name: int) -> None:
        with gate.turn(None) as waited:
            order.append(name)
            waits.append(waited)

    with ThreadPoolExecutor(4) as pool, gate.turn(None) as waited:
        assert waited == 0.0
        assert not gate.room()
        for name in range(3):
            pool.submit(command, name)
            waiting(gate, name + 1)
    assert order == [0, 1, 2]
    assert all(waited > 0 for waited in waits)
    load = gate.load()
    assert (load.holding, load.waiting) == (0, 0)


def test_room_is_told_of_when_the_last_one_that_waited_is_through():
    gate, told = CommandGate(1), threading.Event()
    gate.when_room(told.set)
    with gate.turn(None):
        assert not told.is_set()
    assert told.is_set()


def test_who_is_cancelled_while_waiting_leaves_the_queue():
    gate, cancel = CommandGate(1), threading.Event()

    def command(cancelled: threading.Event | None) -> float | None:
        with gate.turn(cancelled) as waited:
            return waited

    with ThreadPoolExecutor(2) as pool, gate.turn(None):
        first = pool.submit(command, cancel)
        waiting(gate, 1)
        second = pool.submit(command, threading.Event())
        waiting(gate, 2)
        cancel.set()
        assert first.result(20) is None
        assert gate.load().waiting == 1
    assert second.result(20) is not None


@pytest.fixture
def session(tmp_path):
    return workspace(tmp_path, {"a.txt": "a"})


def test_waiting_is_no_part_of_a_commands_time(session):
    gate, watch = CommandGate(1), Watch()
    gated = GatedSession(session, gate, watch)
    with ThreadPoolExecutor(1) as pool:
        with gate.turn(None):
            asked = time.monotonic()
            result = pool.submit(gated.exec, ["true"], timeout=30)
            waiting(gate, 1)
        done = result.result(20)
    assert done.status is ExecStatus.EXIT
    waited = watch.metrics.registry.get_sample_value("devstral_fix_gate_wait_seconds_sum", {"gate": "commands"})
    assert waited > 0
    assert done.seconds <= time.monotonic() - asked - waited


def test_a_command_that_is_cancelled_while_it_waits_never_starts(session):
    gate, cancel = CommandGate(1), threading.Event()
    gated = GatedSession(session, gate)
    with ThreadPoolExecutor(1) as pool, gate.turn(None):
        result = pool.submit(gated.exec, ["touch", "made"], timeout=30, cancel=cancel)
        waiting(gate, 1)
        cancel.set()
        assert result.result(20).status is ExecStatus.CANCELLED
    assert not (session.root / "made").exists()
    gated.write("b.txt", b"b")
    assert gated.read("b.txt") == b"b"
    gated.reset(gated.snapshot())
    gated.close()
    assert session.closed
