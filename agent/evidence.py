"""What executed tests prove: pure rules from their outcomes to what the run means for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from agent.comparison import Comparison
from agent.outcome import Evidence, Outcome, Stage, TestOutcome
from agent.protocols import ExecResult, ExecStatus
from agent.types import ExitStatus, Frozen

_CANNOT_RUN = {126, 127}  # the shell's: not executable, not found
_NOTHING_COLLECTED = re.compile(r"no tests (ran|collected|found)|collected 0 items", re.IGNORECASE)
_BAD_USAGE = re.compile(r"^ERROR: (usage:|file or directory not found|not found:)", re.MULTILINE)

_FIRST: Mapping[Stage, Stage] = MappingProxyType({"before_again": "before", "after_again": "after"})


class Verdict(Frozen):
    outcome: Outcome
    reason: str


def judge(result: ExecResult) -> TestOutcome:
    """How a test command ended. An exit code that means "nothing was tested" in some runners and "this many failed"
    in others counts as the former only where the output says so, or says nothing at all."""
    if result.status is not ExecStatus.EXIT or result.returncode is None:
        return TestOutcome.ERROR
    if result.returncode in _CANNOT_RUN:
        return TestOutcome.ERROR
    said = result.stdout.text + result.stderr.text
    if result.returncode == 5 and (not said.strip() or _NOTHING_COLLECTED.search(said)):
        return TestOutcome.ERROR
    if result.returncode == 4 and _BAD_USAGE.search(said):
        return TestOutcome.ERROR
    return TestOutcome.PASSED if result.returncode == 0 else TestOutcome.FAILED


def decide(
    exit_status: ExitStatus,
    *,
    patch_is_empty: bool,
    test_command: str | None,
    evidence: Sequence[Evidence],
    comparison: Comparison | None = None,
    doubts: Sequence[str] = (),
) -> Verdict:
    """`fixed` only where something was executed that failed without the change and passes with it, where nothing speaks
    against believing it (`doubts`, for people), and where the agent itself was done; of several rows of a stage the
    last one counts. `comparison`: test by test, where the runner told; otherwise exit statuses are all there is."""
    if patch_is_empty:
        return Verdict(outcome=Outcome.UNSOLVED, reason=f"no file was changed ({_ended(exit_status)})")
    if comparison is None:
        outcomes = {row.stage: row.outcome for row in evidence}
        outcomes |= {_FIRST[row.stage]: row.outcome for row in evidence if row.stage in _FIRST}
        verdict = _tested(test_command, outcomes)
        if evidence:
            words = f"{verdict.reason} (by exit status: the outcome per test is unknown)"
            verdict = Verdict(outcome=verdict.outcome, reason=words)
    elif not any(row.counts for row in evidence):
        verdict = _partial("not verified: the test command finds no test")
    else:
        verdict = _compared(comparison)
    if verdict.outcome is Outcome.FIXED and doubts:
        verdict = _partial(f"{verdict.reason}; but {'; '.join(doubts)}")
    if verdict.outcome is Outcome.FIXED and exit_status is not ExitStatus.SUBMITTED:
        return _partial(f"{verdict.reason}, but {_ended(exit_status)}")
    return verdict


def _compared(found: Comparison) -> Verdict:
    if found.broken:
        return _unsolved(f"the change breaks {_tests(found.broken)} that passed without it")
    against = [
        words.format(_tests(tests))
        for words, tests in (
            ("{} of the base no longer collected", found.missing),
            ("{} that passed before skipped now", found.skipped),
            ("{} not on the base fail with the change", found.new_failing),
        )
        if tests
    ]
    same = f"; {_tests(found.still_failing)} failed before and still fail" if found.still_failing else ""
    flaky = f"; {_tests(found.flaky)} end now so, now so" if found.flaky else ""
    if not found.reproduced:
        shown = f"no test failed without the change and passes with it: nothing shows that the problem is gone{same}"
    else:
        shown = f"{_tests(found.reproduced)} failed without the change and pass with it{same}"
    if against or not found.reproduced:
        return _partial("; ".join([shown + flaky, *against]))
    return Verdict(outcome=Outcome.FIXED, reason=f"{shown}; nothing that passed before fails{flaky}")


def _tests(ids: Sequence[str]) -> str:
    """How many, and the first of them."""
    told = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
    return f"{len(ids)} test{'s' if len(ids) != 1 else ''} ({told})"


def _tested(test_command: str | None, outcomes: dict[Stage, TestOutcome]) -> Verdict:
    before = outcomes.get("before", TestOutcome.NOT_RUN)
    new_tests = outcomes.get("before_with_new_tests", TestOutcome.NOT_RUN)
    after = outcomes.get("after", TestOutcome.NOT_RUN)
    shown = TestOutcome.FAILED in {before, new_tests}
    passed, failed, error, not_run = TestOutcome.PASSED, TestOutcome.FAILED, TestOutcome.ERROR, TestOutcome.NOT_RUN

    if test_command is None:
        return _partial("not verified: no test command is known, so nothing was executed")
    if after is passed and shown:
        which = "the tests" if before is failed else "the new tests"
        return Verdict(outcome=Outcome.FIXED, reason=f"{which} failed without the change and all pass with it")
    # After the line above: a repository without any tests "can't run" them until the change adds the first ones.
    if before is error:
        return Verdict(outcome=Outcome.SETUP_FAILED, reason="the test command can't be run even without the change")
    if after is not_run:
        return _partial("not verified: the tests were not run with the change")
    if after is passed and before is not_run:
        return _partial("the tests pass with the change, but were not run without it")
    if after is passed:
        return _partial("the tests pass with the change and did without it: nothing shows that the problem is gone")
    if after is error:
        return _unsolved("the tests can't be run to their end with the change")
    if before is passed:
        return _unsolved("the change breaks tests that passed without it")
    if before is failed:
        return _partial("tests failed without the change and tests still fail with it")
    return _partial("tests fail with the change, and were not run without it")


def _partial(reason: str) -> Verdict:
    return Verdict(outcome=Outcome.PARTIAL, reason=reason)


def _unsolved(reason: str) -> Verdict:
    return Verdict(outcome=Outcome.UNSOLVED, reason=reason)


def _ended(exit_status: ExitStatus) -> str:
    return {
        ExitStatus.SUBMITTED: "the agent said it is done",
        ExitStatus.LIMITS_EXCEEDED: "a limit ended the agent before it was done",
        ExitStatus.FORMAT_ERRORS: "the agent's answers became unusable before it was done",
        ExitStatus.STUCK: "the agent repeated itself before it was done",
        ExitStatus.CANCELLED: "the agent was cancelled before it was done",
        ExitStatus.ERROR: "an error ended the agent before it was done",
    }[exit_status]
