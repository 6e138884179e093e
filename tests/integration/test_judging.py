"""Answers without a change, checked against the base with real commands in the real sandbox."""

from __future__ import annotations

from threading import Event

import pytest

from agent.outcome import Outcome
from agent.types import ExitStatus
from tests.fakes import call, say
from tests.integration.world import World
from tests.verifying import Bench
from worker.stages.config import RepositoryConfig
from worker.stages.judging import Judged, judged
from worker.stages.verification import Subject, Verifier
from worker.stages.verify import Verify


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("calc"), {"calc.py": "def add(a, b):\n    return a + b\n"})


def answered(bench: Bench, summary: str, ended: ExitStatus = ExitStatus.SUBMITTED) -> Judged:
    subject = Subject(
        git_dir=bench.place.git_dir,
        repository="acme/calc",
        patch=bench.patch({}),
        settings=RepositoryConfig(test="true", test_timeout_seconds=10),
    )
    verifier = Verifier(sandbox=bench.sandbox, repositories=bench.place.repos)
    recorded = []
    found = judged(verifier, subject, ended, summary, number=7, cancel=Event(), record=recorded.append)
    assert tuple(recorded) == found.evidence
    return found


def test_a_change_that_may_not_be_proposed_is_not_even_executed(bench):
    """Red without the check in `judged`, which `fix` and the service share."""
    bench.sandbox.opened.clear()
    subject = Subject(
        git_dir=bench.place.git_dir,
        repository="acme/calc",
        patch=bench.patch({".github/workflows/ci.yml": "on: push\n"}),
        settings=RepositoryConfig(test="true"),
    )
    verifier = Verifier(sandbox=bench.sandbox, repositories=bench.place.repos)
    found = judged(verifier, subject, ExitStatus.SUBMITTED, "", number=7, cancel=Event(), record=lambda _: None)
    assert found.verdict.outcome is Outcome.REFUSED
    assert ".github/workflows/ci.yml" in found.verdict.reason
    assert (found.evidence, bench.sandbox.opened) == ((), [])


def test_what_can_not_be_reproduced_is_executed_by_the_service(bench):
    command = "python3 -c 'from calc import add; assert add(1, 1) == 2; print(42)'"
    found = answered(bench, f"NOT REPRODUCIBLE: {command}\n\nIt adds.")
    assert found.verdict.outcome is Outcome.NOT_REPRODUCIBLE
    (piece,) = found.evidence
    assert (piece.stage, piece.command, piece.returncode, piece.output) == ("before", command, 0, "42\n")


def test_a_claim_that_its_own_command_denies_is_unsolved(bench):
    found = answered(bench, "NOT REPRODUCIBLE: python3 -c 'from calc import sub'")
    assert found.verdict.outcome is Outcome.UNSOLVED
    assert "ends with 1 on the base" in found.verdict.reason
    assert "ImportError" in found.evidence[0].output


@pytest.mark.parametrize(
    ("summary", "outcome"),
    [
        ("ALREADY FIXED: calc.py:2", Outcome.ALREADY_FIXED),
        ("ALREADY FIXED: /workspace/calc.py", Outcome.ALREADY_FIXED),
        ("ALREADY FIXED: ../../etc/passwd", Outcome.UNSOLVED),
        ("ALREADY FIXED: HEAD", Outcome.UNSOLVED),
        ("DUPLICATE: #3", Outcome.DUPLICATE),
        ("nothing to do", Outcome.UNSOLVED),
    ],
)
def test_what_is_named_has_to_be_there(bench, summary, outcome):
    assert answered(bench, summary).verdict.outcome is outcome


def test_a_commit_that_is_named_has_to_be_there(bench):
    assert answered(bench, f"ALREADY FIXED: {bench.base}").verdict.outcome is Outcome.ALREADY_FIXED
    assert answered(bench, f"ALREADY FIXED: {'0' * 40}").verdict.outcome is Outcome.UNSOLVED


def test_only_an_agent_that_was_done_answers(bench):
    assert answered(bench, "QUESTION: Which?", ExitStatus.LIMITS_EXCEEDED).verdict.outcome is Outcome.UNSOLVED


def test_a_run_ends_with_its_question(store, tmp_path):
    world = World(store, tmp_path)
    answer = "QUESTION: Is a tab one column wide?\n\nBoth readings change other callers."
    world.pursue(call(("bash", '{"command": "cat *"}')), say(answer), say(answer))
    Verify(
        store=store,
        heartbeat=world.heartbeat,
        verifier=Verifier(sandbox=world.sandbox, repositories=world.repositories),
        repositories=world.repositories,
        layers=world.layers,
        send=world.sent.append,
        lease_seconds=60,
    )(world.run_id)
    assert world.run.outcome is Outcome.QUESTION
    assert world.run.reason == "it needs an answer first: Is a tab one column wide?"
    world.heartbeat.close()
