"""The evidence as people read it: exactly what was executed, and what is not known."""

from __future__ import annotations

from agent.outcome import Detail, Evidence, Named, Outcome
from agent.outcome import TestOutcome as Judged
from agent.reports import Case
from worker.stages import texts


def piece(stage: str, **changes: object) -> Evidence:
    values = {
        "stage": stage, "tree": "t", "command": "pytest -q", "outcome": Judged.PASSED, "returncode": 0, "seconds": 2.0,
        "output": "done", "counts": {Case.PASSED: 3},
    }  # fmt: skip
    return Evidence.model_validate(values | changes)


def test_each_execution_is_a_row_with_its_tests():
    found = {"reproduced": Named(total=30, some=("t.py::`a`", "t.py::b")), "flaky": Named(total=1, some=("t.py::c",))}
    text = texts.evidence_table(
        [
            piece("before", detail=Detail(kept=True)),
            piece(
                "before_with_new_tests", outcome=Judged.FAILED, returncode=1, counts={Case.PASSED: 3, Case.FAILED: 1}
            ),
            piece("after", detail=Detail(tests=found, held_back=("conftest.py",))),
        ]
    )
    assert "| base | passed | 3 passed | 0 | 2.0 s (kept from an earlier run) |" in text
    assert "| base + this change's tests | failed | 3 passed, 1 failed | 1 | 2.0 s |" in text
    assert "- Failed without this change, pass with it (30): `t.py::'a'`, `t.py::b`, …" in text
    assert "- End now so, now so (1): `t.py::c`" in text
    assert "- Executed as on the base, although this change touches it: `conftest.py`" in text


def test_what_is_not_known_is_said():
    text = texts.evidence_table([piece("after", counts={}, detail=Detail(note="no report"))])
    assert "| with this change | passed | unknown | 0 |" in text
    assert "- with this change: the outcome of each test is unknown: `no report`" in text
    assert texts.evidence_table([]).startswith("Not verified: ")


def test_of_which_commit_it_is():
    assert "nothing was executed on that" in texts.verified_on("a" * 40, "main", "b" * 40)
    assert "where it is still" in texts.verified_on("a" * 40, "main", "a" * 40)
    assert "is gone" in texts.verified_on("a" * 40, "main", None)


def test_a_reason_is_no_markup_whoever_wrote_it():
    told = "1 test (tests/test_a.py::test[@someone `x` <img>]) failed"
    shown = texts.answer(Outcome.QUESTION, told, branch=None, summary="@all `", evidence=())
    assert shown[0] == "`1 test (tests/test_a.py::test[@someone 'x' <img>]) failed`"
    assert shown[1].endswith("```text\n@all `\n```")
    partial = texts.answer(Outcome.PARTIAL, "one test fails", branch="devstral/issue-1", summary="", evidence=())
    assert partial == ["What is missing: `one test fails`", "Branch `devstral/issue-1`"]
    assert "(question; no pull request)" in texts.headline(Outcome.QUESTION, None)
