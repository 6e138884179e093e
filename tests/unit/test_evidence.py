"""What executed tests prove, row by row of the rules."""

from __future__ import annotations

import itertools

import pytest

from agent.evidence import decide, judge
from agent.outcome import Evidence, Outcome, TestOutcome
from agent.protocols import Captured, ExecResult, ExecStatus
from agent.types import ExitStatus

PASSED, FAILED, ERROR, NOT_RUN = TestOutcome.PASSED, TestOutcome.FAILED, TestOutcome.ERROR, TestOutcome.NOT_RUN


def row(stage: str, outcome: TestOutcome) -> Evidence:
    return Evidence(
        stage=stage, tree="1" * 40, command="pytest", outcome=outcome, returncode=None, seconds=1.0, output=""
    )


def verdict(
    before: TestOutcome | None,
    after: TestOutcome | None,
    new_tests: TestOutcome | None = None,
    exit_status: ExitStatus = ExitStatus.SUBMITTED,
    test_command: str | None = "pytest",
    *,
    patch_is_empty: bool = False,
) -> tuple[Outcome, str]:
    stages = (("before", before), ("before_with_new_tests", new_tests), ("after", after))
    rows = [row(stage, outcome) for stage, outcome in stages if outcome is not None]
    made = decide(exit_status, patch_is_empty=patch_is_empty, test_command=test_command, evidence=rows)
    return made.outcome, made.reason


@pytest.mark.parametrize(
    ("before", "new_tests", "after", "outcome", "why"),
    [
        (FAILED, None, PASSED, Outcome.FIXED, "failed without the change and all pass"),
        (PASSED, FAILED, PASSED, Outcome.FIXED, "the new tests failed"),
        (ERROR, FAILED, PASSED, Outcome.FIXED, "the new tests failed"),
        (None, FAILED, PASSED, Outcome.FIXED, "the new tests failed"),
        (PASSED, None, PASSED, Outcome.PARTIAL, "nothing shows"),
        (PASSED, PASSED, PASSED, Outcome.PARTIAL, "nothing shows"),
        (PASSED, ERROR, PASSED, Outcome.PARTIAL, "nothing shows"),
        (PASSED, None, FAILED, Outcome.UNSOLVED, "breaks tests"),
        (PASSED, FAILED, FAILED, Outcome.UNSOLVED, "breaks tests"),
        (FAILED, None, FAILED, Outcome.PARTIAL, "still fail"),
        (ERROR, None, PASSED, Outcome.SETUP_FAILED, "even without the change"),
        (ERROR, None, ERROR, Outcome.SETUP_FAILED, "even without the change"),
        (PASSED, None, ERROR, Outcome.UNSOLVED, "to their end"),
        (FAILED, None, ERROR, Outcome.UNSOLVED, "to their end"),
        (FAILED, None, None, Outcome.PARTIAL, "not verified"),
        (None, None, None, Outcome.PARTIAL, "not verified"),
        (None, None, PASSED, Outcome.PARTIAL, "not run without it"),
        (None, None, FAILED, Outcome.PARTIAL, "not run without it"),
    ],
)
def test_rules(
    before: TestOutcome | None,
    new_tests: TestOutcome | None,
    after: TestOutcome | None,
    outcome: Outcome,
    why: str,
):
    made, reason = verdict(before, after, new_tests)
    assert made is outcome
    assert why in reason


def test_no_patch_is_unsolved_whatever_was_run():
    assert verdict(FAILED, PASSED, patch_is_empty=True)[0] is Outcome.UNSOLVED


def test_no_test_command_is_partial():
    assert verdict(None, None, test_command=None)[0] is Outcome.PARTIAL


@pytest.mark.parametrize("status", [status for status in ExitStatus if status is not ExitStatus.SUBMITTED])
def test_an_agent_that_was_not_done_is_never_called_fixed(status: ExitStatus):
    made, reason = verdict(FAILED, PASSED, exit_status=status)
    assert made is Outcome.PARTIAL
    assert "before it was done" in reason


def test_fixed_only_ever_with_a_failure_before_and_a_pass_after():
    some = [PASSED, FAILED, ERROR, NOT_RUN, None]
    for before, new_tests, after in itertools.product(some, some, some):
        made, reason = verdict(before, after, new_tests)
        assert reason
        assert (made is Outcome.FIXED) == (after is PASSED and FAILED in (before, new_tests))


def result(returncode: int | None, output: str = "", status: ExecStatus = ExecStatus.EXIT) -> ExecResult:
    stdout = Captured(text=output, total_bytes=len(output))
    return ExecResult(status=status, returncode=returncode, stdout=stdout, stderr=Captured(), seconds=1.0)


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (result(0, "3 passed"), PASSED),
        (result(1, "1 failed"), FAILED),
        (result(2, "Interrupted: 1 error during collection"), FAILED),
        (result(-11), FAILED),
        (result(139), FAILED),
        (result(126), ERROR),
        (result(127, "pytest: not found"), ERROR),
        (result(5, "===== no tests ran in 0.01s ====="), ERROR),
        (result(5, "NO TESTS RAN"), ERROR),
        (result(5), ERROR),
        (result(5, "5 failing"), FAILED),
        (result(4, "ERROR: file or directory not found: tests/x.py"), ERROR),
        (result(4, "4 failing"), FAILED),
        (result(None), ERROR),
        *[(result(None, status=status), ERROR) for status in ExecStatus if status is not ExecStatus.EXIT],
        (result(0, status=ExecStatus.TIMEOUT), ERROR),
    ],
)
def test_judging_one_execution(ended: ExecResult, outcome: TestOutcome):
    assert judge(ended) is outcome
