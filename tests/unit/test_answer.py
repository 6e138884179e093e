"""Answers without a change: what they open with, and what they have to name to count."""

from __future__ import annotations

import pytest

from agent.answer import Claim, claim, judged
from agent.evidence import Verdict
from agent.outcome import Outcome

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE = {"src/cart.py", "README.md", COMMIT}


def verdict(summary: str, *, runs: str | None = None) -> Verdict:
    found = claim(summary)
    assert found is not None
    return judged(found, own=7, exists=BASE.__contains__, runs=lambda _: runs)


@pytest.mark.parametrize(
    ("summary", "kind", "named"),
    [
        ("QUESTION: Which currency?", Outcome.QUESTION, "Which currency?"),
        ("\n**Question:** Which one?\n\nwhy", Outcome.QUESTION, "Which one?"),
        ("## DUPLICATE: #12\n\nbecause", Outcome.DUPLICATE, "#12"),
        ("already fixed: `src/cart.py:3`", Outcome.ALREADY_FIXED, "src/cart.py:3"),
        ("NOT REPRODUCIBLE:\n\n`python -m pytest tests`", Outcome.NOT_REPRODUCIBLE, "python -m pytest tests"),
    ],
)
def test_what_an_answer_opens_with(summary: str, kind: Outcome, named: str):
    assert claim(summary) == Claim(kind=kind, named=named)


@pytest.mark.parametrize(
    "summary", ["", "Fixed it. QUESTION: no", "I have a question", "QUESTIONABLE: yes", "No change.\nDUPLICATE: #3"]
)
def test_what_claims_nothing(summary: str):
    assert claim(summary) is None


@pytest.mark.parametrize(
    ("summary", "outcome", "reason"),
    [
        ("QUESTION: Which currency?", Outcome.QUESTION, "it needs an answer first: Which currency?"),
        ("QUESTION: Tell me more.", Outcome.UNSOLVED, "asks none"),
        ("QUESTION: Which? And why?", Outcome.UNSOLVED, "several questions"),
        ("DUPLICATE: #12", Outcome.DUPLICATE, "a duplicate of #12"),
        ("DUPLICATE: #7 and #9", Outcome.DUPLICATE, "a duplicate of #9"),
        ("DUPLICATE: #7", Outcome.UNSOLVED, "names no other issue"),
        ("DUPLICATE: the other one", Outcome.UNSOLVED, "names no other issue"),
        ("ALREADY FIXED: src/cart.py:12", Outcome.ALREADY_FIXED, "src/cart.py:12"),
        (f"ALREADY FIXED: by commit {COMMIT}", Outcome.ALREADY_FIXED, COMMIT),
        ("ALREADY FIXED: (README.md#L3-L9).", Outcome.ALREADY_FIXED, "README.md#L3-L9"),
        ("ALREADY FIXED: src/nowhere.py:12", Outcome.UNSOLVED, "names nothing that is there"),
        (f"ALREADY FIXED: {'f' * 40}", Outcome.UNSOLVED, "names nothing that is there"),
        ("NOT REPRODUCIBLE: make check", Outcome.NOT_REPRODUCIBLE, "make check ends without an error on the base"),
        ("NOT REPRODUCIBLE:", Outcome.UNSOLVED, "names no command"),
    ],
)
def test_what_each_has_to_name(summary: str, outcome: Outcome, reason: str):
    found = verdict(summary)
    assert found.outcome is outcome
    assert reason in found.reason


def test_a_command_that_fails_shows_the_problem():
    found = verdict("NOT REPRODUCIBLE: make check", runs="ends with 2 on the base")
    assert (found.outcome, found.reason.endswith("but that ends with 2 on the base")) == (Outcome.UNSOLVED, True)
