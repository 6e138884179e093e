"""Similar issues, the order of attempts, and what they may cost."""

from __future__ import annotations

import json
import random
import time

import pytest

from agent.triage.asking import Asked
from agent.triage.assessment import read
from agent.triage.backlog import BacklogIssue
from agent.triage.forecast import ENOUGH, Past, Range, forecast, total
from agent.triage.ranking import ranked
from agent.triage.similarity import SAME, groups, similar
from agent.types import Price, Usage

GOOD = {"kind": "bug", "solvable": True, "reason": "r", "difficulty": "easy", "risk": "low"}


def issue(number, title="t", body=""):
    return BacklogIssue(number=number, title=title, body=body)


def answer(number, others=(), **changes):
    return Asked(number=number, assessment=read(json.dumps(GOOD | changes), number=number, others=others, files=()))


def test_a_report_made_twice_is_one_group():
    issues = [
        issue(1, "Crash when opening a file with spaces in its name", "Open `a b.txt` and it crashes with KeyError."),
        issue(2, "Dark theme for the settings page", "Please add a dark theme."),
        issue(5, "crash when opening file with spaces in the name", "Open 'a b.txt': it crashes with a KeyError"),
        issue(9, "Dark mode for the export dialog", "Exports should have a dark mode, the dialog is too bright."),
    ]
    alike = similar(issues)
    assert groups(issues, alike) == [(1, 5)]
    assert alike[5][0].number == 1
    assert alike[5][0].score >= SAME
    assert all(one.number != number for number, others in alike.items() for one in others)


def test_the_same_template_does_not_make_two_reports_one():
    template = "## Steps\n\n- [ ] I searched\n- [x] I read\n\n## Version\n\n"
    issues = [
        issue(1, "Timeout in the scheduler", template + "The job hangs after 30 s."),
        issue(2, "Wrong colour of links", template + "They are green, not blue."),
    ]
    assert groups(issues, similar(issues)) == []


def test_texts_that_have_nothing_to_compare():
    issues = [issue(1, "", ""), issue(2, "", ""), issue(3, "???", "!!!"), issue(4, "x" * 5_000, "y" * 300_000)]
    alike = similar(issues)
    assert set(alike) == {1, 2, 3, 4}


def test_similarity_of_five_thousand_is_seconds_not_minutes():
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghijklmnop", k=source.randint(3, 9))) for _ in range(3_000)]
    many = [
        issue(n, " ".join(source.choices(words, k=8)), " ".join(source.choices(words, k=120))) for n in range(1, 5_001)
    ]
    many.append(issue(6_000, many[77].title + " please", many[77].body[:700]))
    began = time.monotonic()
    found = groups(many, similar(many))
    assert found == [(78, 6_000)]
    assert time.monotonic() - began < 90


def test_easy_and_safe_bugs_come_first():
    issues = [issue(n) for n in (1, 2, 3, 4, 5)]
    answers = {
        1: answer(1, difficulty="hard"),
        2: answer(2, risk="high"),
        3: answer(3, kind="feature"),
        4: answer(4),
        5: answer(5, difficulty="trivial", missing=["the version"]),
    }
    assert [one.issue.number for one in ranked(issues, answers)] == [5, 4, 3, 2, 1]
    assert [one.rank for one in ranked(issues, answers)] == [1, 2, 3, 4, 5]


def test_who_is_not_advised_has_a_reason():
    issues = [issue(n) for n in (1, 2, 3, 4, 5, 6)]
    answers = {
        1: answer(1),
        2: answer(2, kind="question"),
        3: answer(3, solvable=False, reason="It needs a phone."),
        4: Asked(number=4, failure="no answer in time"),
        6: answer(6, others=(1,), kind="duplicate", duplicate_of=1),
    }
    found = {one.issue.number: one for one in ranked(issues, answers, groups=[(1, 5)])}
    assert {number: one.why_not for number, one in found.items()} == {
        1: None,
        2: "a question",
        3: "It needs a phone.",
        4: "no answer in time",
        5: "the same as #1",
        6: "the same as #1",
    }
    assert found[1].also == (5, 6)
    assert found[5].rank is None


def test_duplicates_in_a_circle_leave_one():
    issues = [issue(1), issue(2)]
    answers = {
        1: answer(1, others=(2,), kind="duplicate", duplicate_of=2),
        2: answer(2, others=(1,), kind="duplicate", duplicate_of=1),
    }
    found = {one.issue.number: one for one in ranked(issues, answers)}
    assert found[1].same_as is None
    assert found[2].same_as == 1
    assert found[1].also == (2,)


@pytest.mark.parametrize("runs", [0, ENOUGH - 1])
def test_without_enough_runs_published_sizes_are_said_to_be_that(runs):
    past = [Past(steps=1, usage=Usage(prompt=1, completion=1), usd=99.0)] * runs
    found = forecast(past, Price(prompt=0.4, cached=0.04, completion=2.0))
    assert "published" in found.based_on
    assert found.steps.middle == 80
    # 3.68 of 3.76 million prompt tokens are cached: 0.147 + 0.032 + 0.046
    assert found.usd.middle == pytest.approx(0.2256, abs=1e-4)
    assert found.gpu_seconds is None


def test_history_gives_an_interval():
    past = [
        Past(steps=n, usage=Usage(prompt=1000 * n, completion=10 * n, gpu_seconds=2.0 * n), usd=n / 100)
        for n in range(11)
    ]
    found = forecast(past, Price())
    assert found.steps == Range(low=1, middle=5, high=9)
    assert found.gpu_seconds == Range(low=2, middle=10, high=18)
    assert found.based_on == "11 runs of this service"
    assert total(found.steps, 4) == Range(low=12, middle=20, high=28)
    assert total(found.steps, 0) == Range(low=0, middle=0, high=0)
