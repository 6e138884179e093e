"""The choice between tries, on patches as git writes them."""

from __future__ import annotations

import pytest

from agent import choice
from agent.choice import Try, choose, normalised
from agent.evidence import Verdict
from agent.outcome import Detail, Evidence, FileChange, Named, Outcome, Patch, TestOutcome
from agent.types import ExitStatus


def patch(added: str = "return a + b", *, path: str = "calc.py", at: int = 1, tests: str = "", more: int = 0) -> Patch:
    lines = [added, *(f"# {n}" for n in range(more))]
    diff = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -{at} +{at},{len(lines)} @@\n-return a - b\n"
    diff += "".join(f"+{line}\n" for line in lines)
    files = [FileChange(path=path, status="M", old_mode="100644", new_mode="100644", added=len(lines), removed=1)]
    if tests:
        diff += "diff --git a/tests/test_calc.py b/tests/test_calc.py\n--- /dev/null\n+++ b/tests/test_calc.py\n"
        diff += f"@@ -0,0 +1 @@\n+{tests}\n"
        new = FileChange(
            path="tests/test_calc.py", status="A", old_mode="000000", new_mode="100644", added=1, removed=0
        )
        files.append(new)
    return Patch(base_commit="0" * 40, tree="1" * 40, diff=diff, files=tuple(files))


EMPTY = Patch(base_commit="0" * 40, tree="0" * 40, diff="", files=())


def executed(*stages: str, **tests: int) -> tuple[Evidence, ...]:
    named = {name: Named(total=total, some=("t",)) for name, total in tests.items()}
    return tuple(
        Evidence(
            stage=stage,
            tree="1" * 40,
            command="pytest",
            outcome=TestOutcome.PASSED,
            returncode=0,
            seconds=1.0,
            output="",
            detail=Detail(tests=named if stage == "after" else {}),
        )
        for stage in ("before", "after", *stages)
    )


def tried(
    number: int,
    change: Patch | None = None,
    outcome: Outcome = Outcome.FIXED,
    evidence: tuple[Evidence, ...] | None = None,
    *,
    ended: ExitStatus = ExitStatus.SUBMITTED,
    named: bool = False,
) -> Try:
    return Try(
        number=number,
        patch=patch(f"try {number}", path=f"file{number}.py") if change is None else change,
        verdict=Verdict(outcome=outcome, reason=""),
        exit_status=ended,
        evidence=executed(reproduced=1) if evidence is None else evidence,
        named=named,
    )


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (tried(0, outcome=Outcome.PARTIAL), tried(1)),
        (tried(0, outcome=Outcome.UNSOLVED), tried(1, outcome=Outcome.PARTIAL)),
        (tried(0, outcome=Outcome.REFUSED), tried(1, outcome=Outcome.UNSOLVED)),
        (tried(0, outcome=Outcome.UNSOLVED), tried(1, EMPTY, Outcome.ALREADY_FIXED)),
        (tried(0, evidence=executed()), tried(1)),
        (tried(0, evidence=executed(reproduced=1, missing=1)), tried(1)),
        (tried(0, evidence=executed(reproduced=1, flaky=1)), tried(1)),
        (tried(0, evidence=executed("after_again", reproduced=1)), tried(1)),
        (tried(0, ended=ExitStatus.LIMITS_EXCEEDED), tried(1)),
    ],
)
def test_what_was_executed_comes_first(worse: Try, better: Try) -> None:
    """The worse one is named by the critic, smaller and earlier: all in vain."""
    larger = better.model_copy(update={"patch": patch("x", path="y.py", more=40) if better.patch.files else EMPTY})
    found = choose([worse.model_copy(update={"named": True}), larger])
    assert found.order == (1, 0)
    assert found.by == "chosen by what was executed"


def test_tries_that_agree_outweigh_one_that_stands_alone() -> None:
    alone, one, other = tried(0), tried(1, patch(more=9)), tried(2, patch(at=7, more=9, tests="assert 1"))
    assert choose([alone.model_copy(update={"named": True}), one, other]).order == (1, 2, 0)
    assert choose([alone, one, other]).by == "chosen since most tries agree on it"
    assert choose([one, other]).by == "all of them made the same change"
    assert choose([one, alone]).by == "the smallest of those with the same evidence"


def test_agreement_does_not_outweigh_evidence() -> None:
    bad = [tried(n, patch(), Outcome.UNSOLVED) for n in range(3)]
    assert choose([*bad, tried(3, outcome=Outcome.PARTIAL)]).best == 3


def test_the_same_files_are_half_an_agreement() -> None:
    near = [tried(1, patch("return b + a")), tried(2, patch("return sum((a, b))", more=1))]
    assert choose([tried(0), *near]).order == (1, 2, 0)


def test_the_critic_decides_where_evidence_does_not() -> None:
    found = choose([tried(0), tried(1, patch(more=5), named=True)])
    assert found.order == (1, 0)
    assert "own comparison" in found.by


def test_what_the_critic_named_holds_for_all_that_make_that_change() -> None:
    """It sees one of each change; of those the earliest is taken."""
    tries = [tried(0, patch("a", path="x.py")), tried(1, patch("a", path="x.py")), tried(2, patch("b", path="y.py"))]
    tries += [tried(3, patch("b", path="y.py"), named=True)]
    assert choose(tries).order == (2, 3, 0, 1)


def test_without_a_critic_the_smaller_change_then_the_earlier_try() -> None:
    assert choose([tried(0, patch(more=3)), tried(1, patch("b"))]).order == (1, 0)
    found = choose([tried(1), tried(0)])
    assert (found.order, found.by) == ((0, 1), "the first of those with the same evidence")


def test_the_order_in_which_tries_are_given_does_not_matter() -> None:
    tries = [tried(0, outcome=Outcome.PARTIAL), tried(1, patch()), tried(2, patch(at=3)), tried(3, EMPTY)]
    assert choose(tries) == choose(tries[::-1])


def test_nothing_to_choose_from() -> None:
    assert choose([tried(4)]).by == ""
    with pytest.raises(ValueError, match="no try"):
        choose([])


def test_changes_of_nothing_do_not_agree() -> None:
    tries = [tried(0, EMPTY, Outcome.UNSOLVED, ()), tried(1, EMPTY, Outcome.UNSOLVED, ())]
    assert choice.agreement(tries[0], tries) == (0, 0)
    assert choose(tries).best == 0


def test_equal_changes_are_known_wherever_they_stand_and_whatever_tests_they_bring() -> None:
    assert normalised(patch()) == normalised(patch("return a + b  ", at=90, tests="assert True"))
    assert normalised(patch()) != normalised(patch("    return a + b"))  # in some languages that is another program
    assert normalised(patch()) != normalised(patch(path="other.py"))
    only_tests = patch(path="tests/test_a.py"), patch("x", path="tests/test_a.py")
    assert normalised(only_tests[0]) != normalised(only_tests[1])


def test_one_of_each_change_is_shown_to_the_critic() -> None:
    assert choice.distinct({3: patch(), 1: patch(at=5), 2: EMPTY, 4: patch("other")}) == (1, 4)


def test_temperatures_rise_and_end() -> None:
    assert [choice.temperature(0.2, n) for n in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert choice.temperature(1.3, 2) == 1.3
