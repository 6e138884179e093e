"""What tests say with a change against what they said without it: the rules, and what they mean for the outcome."""

from __future__ import annotations

import pytest

from agent.comparison import Comparison, compare, contradiction, counts
from agent.evidence import decide
from agent.outcome import Evidence, Execution, Outcome
from agent.outcome import TestOutcome as Judged
from agent.reports import Case
from agent.types import ExitStatus

P, F, E, S = Case.PASSED, Case.FAILED, Case.ERROR, Case.SKIPPED
A, B, NEW = "tests/a.py::one", "tests/a.py::two", "tests/new.py::three"
FILES = {"tests/a.py", "tests/new.py"}


def found(before, after, without=None, again=None, changed=("tests/new.py",)) -> Comparison:
    return compare(before, after, without=without, again=again, changed=changed, files=FILES)


def test_a_new_test_that_fails_without_the_change_and_passes_with_it_is_a_reproduction():
    assert found({A: P}, {A: P, NEW: P}, {A: P, NEW: F}) == Comparison(reproduced=(NEW,))
    assert found({A: P}, {A: P, NEW: P}, {A: P, "tests/new.py": E}) == Comparison(reproduced=(NEW,)), "its import fails"
    assert found({A: P}, {A: P, NEW: P}, {A: P, NEW: P}) == Comparison()
    assert found({A: P}, {A: P, NEW: P}, None) == Comparison(), "never executed without the change"


def test_a_test_that_was_made_to_pass_is_no_reproduction():
    """Red where a failure on the base counts although the changed test passes there."""
    assert found({A: F}, {A: P}, {A: P}, changed=("tests/a.py",)) == Comparison()


def test_a_failing_test_of_the_base_has_to_fail_twice():
    """Red where one execution of the base is enough."""
    assert found({A: F, B: F}, {A: P, B: P}, {A: F, B: P}, changed=()) == Comparison(reproduced=(A,), flaky=(B,))


def test_a_test_whose_file_the_change_left_alone_did_not_begin_to_fail_by_it():
    """Red without asking whether the file is changed: a flaky test would be a reproduction."""
    assert found({A: P}, {A: P}, {A: F}) == Comparison(flaky=(A,))
    assert found({A: P}, {A: P}, {A: F}, changed=("tests/a.py",)) == Comparison(reproduced=(A,))


def test_what_passed_and_fails_is_broken_unless_a_rerun_passes():
    """Red without the rerun in the comparison."""
    assert found({A: P, B: P}, {A: F, B: F}, again={A: F, B: P}) == Comparison(broken=(A,), flaky=(B,))
    assert found({A: P}, {A: P, NEW: P}, {NEW: F}, again={A: P, NEW: F}) == Comparison(flaky=(NEW,)), "now so, now so"


def test_every_test_of_the_base_has_to_be_there():
    assert found({A: P, B: S}, {A: P}) == Comparison(missing=(B,))
    assert found({A: P, B: P}, {A: P}, again={A: P, B: P}) == Comparison()
    assert found({A: P, B: S}, {A: S, B: S}) == Comparison(skipped=(A,))


@pytest.mark.parametrize("test", ["tests/a.py::two", "tests/a.py > two", "tests/a.py.two"])
def test_what_is_in_a_module_that_can_not_be_run_any_more_is_broken_and_not_gone(test):
    """Red where it is merely no longer collected: a change that can't be built would be a draft."""
    for again in (None, {"tests/a.py": E}):
        assert found({test: P}, {"tests/a.py": E}, again=again) == Comparison(
            broken=(test,), new_failing=("tests/a.py",)
        )
    assert found({test: P}, {"tests/a.py": E}, again={test: P}).broken == ()
    assert found({test: S}, {"tests/a.py": E}).missing == (test,)


@pytest.mark.parametrize("test", ["tests/a.py::two", "tests/a.py > two", "tests/a.py.two"])
def test_a_module_that_could_not_be_run_before_is_no_missing_test(test):
    assert found({"tests/a.py": E}, {test: P}, {"tests/a.py": E}, changed=()).missing == ()
    assert found({"tests/a.py": E}, {test: P}, {"tests/a.py": E}, changed=("tests/a.py",)).reproduced == (test,)
    assert found({"tests/a.py": E}, {}).missing == ("tests/a.py",)


def test_failures_are_told_apart():
    assert found({A: F}, {A: F, NEW: F}, {A: F, NEW: F}) == Comparison(still_failing=(A,), new_failing=(NEW,))
    assert found({"tests/a.py": E}, {"tests/a.py": E}) == Comparison(still_failing=("tests/a.py",))


def execution(outcome: Judged, cases, returncode=1) -> Execution:
    return Execution(command="t", outcome=outcome, returncode=returncode, seconds=1, output="", cases=cases)


@pytest.mark.parametrize(
    ("outcome", "cases", "why"),
    [
        (Judged.PASSED, {A: F}, "1 failing"),
        (Judged.FAILED, {A: P}, "no failing test, and the exit status is 1"),
        (Judged.PASSED, {A: P, B: S}, ""),
        (Judged.FAILED, {A: E}, ""),
        (Judged.ERROR, {A: P}, ""),
        (Judged.PASSED, None, ""),
    ],
)
def test_a_report_counts_only_together_with_the_exit_status(outcome, cases, why):
    said = contradiction(execution(outcome, cases))
    assert why in said
    assert bool(why) == bool(said)


def verdict(comparison: Comparison | None, *doubts: str, exit_status=ExitStatus.SUBMITTED) -> tuple[Outcome, str]:
    row = Evidence(
        stage="after", tree="t", command="c", outcome=Judged.PASSED, returncode=0, seconds=1, output="", counts={P: 1}
    )
    before = row.model_copy(update={"stage": "before", "outcome": Judged.FAILED})
    made = decide(
        exit_status,
        patch_is_empty=False,
        test_command="c",
        evidence=[before, row],
        comparison=comparison,
        doubts=doubts,
    )
    return made.outcome, made.reason


@pytest.mark.parametrize(
    ("comparison", "outcome", "why"),
    [
        (Comparison(reproduced=(A,)), Outcome.FIXED, f"1 test ({A}) failed without the change"),
        (Comparison(reproduced=(A,), still_failing=(B,)), Outcome.FIXED, "failed before and still fail"),
        (Comparison(reproduced=(A,), flaky=(B,)), Outcome.FIXED, "now so, now so"),
        (Comparison(reproduced=(A,), broken=(B,)), Outcome.UNSOLVED, "breaks 1 test"),
        (Comparison(reproduced=(A,), missing=(B,)), Outcome.PARTIAL, "no longer collected"),
        (Comparison(reproduced=(A,), skipped=(B,)), Outcome.PARTIAL, "skipped now"),
        (Comparison(reproduced=(A,), new_failing=(B,)), Outcome.PARTIAL, "not on the base fail"),
        (Comparison(), Outcome.PARTIAL, "nothing shows"),
        (None, Outcome.FIXED, "by exit status: the outcome per test is unknown"),
    ],
)
def test_what_it_means_for_the_run(comparison, outcome, why):
    assert verdict(comparison)[0] is outcome
    assert why in verdict(comparison)[1]


@pytest.mark.parametrize("comparison", [Comparison(reproduced=(A,)), None])
def test_what_speaks_against_believing_it_makes_it_a_draft(comparison):
    made = verdict(comparison, "conftest.py was as on the base")
    assert made[0] is Outcome.PARTIAL
    assert made[1].endswith("; but conftest.py was as on the base")
    assert verdict(comparison, exit_status=ExitStatus.LIMITS_EXCEEDED)[0] is Outcome.PARTIAL


def test_counts_and_names_are_bounded():
    assert counts({A: P, B: P, NEW: F}) == {P: 2, F: 1}
    assert counts(None) == {}
    many = Comparison(missing=tuple(f"t{n}" for n in range(50))).named()
    assert many.keys() == {"missing"}
    assert (many["missing"].total, len(many["missing"].some)) == (50, 20)
