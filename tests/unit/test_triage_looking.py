"""A backlog looked through: files in, answers kept, budgets and stops, reports out."""

from __future__ import annotations

import csv
import io
import json
import re
import threading

import pytest
from markdown_it import MarkdownIt

from agent.triage.asking import Asked, Backlog
from agent.triage.backlog import BacklogIssue
from agent.triage.forecast import forecast
from agent.types import Price, Usage
from tests.fakes import FakeModel, call, say
from worker.errors import ModelRejected, ModelUnavailable, SettingsError
from worker.triage import report
from worker.triage.files import read_issues
from worker.triage.looking import DOWN, Looking, ModelGaveUp
from worker.triage.notebook import Forgetful, Notebook

GOOD = {"kind": "bug", "solvable": True, "reason": "r", "difficulty": "easy", "risk": "low"}
WORDS = (
    *("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "haven"),
    *("inlet", "jumbo", "karst", "lemon", "mango", "nadir", "olive", "pearl"),
)
ISSUES = [BacklogIssue(number=n, title=f"{word} {word[::-1]}", body=word * 3) for n, word in enumerate(WORDS, start=1)]
BACKLOG = Backlog(repository="acme/widgets", files=None, titles={i.number: i.title for i in ISSUES})
PRICE = Price(prompt=10_000.0)  # a call of 100 prompt tokens costs a dollar


def good(**changes):
    return call(("assess", json.dumps(GOOD | changes)))


def looking(model, kept=None, **changes):
    values = {"opened": model.open, "backlog": BACKLOG, "kept": kept or Forgetful(), "price": PRICE, "concurrency": 4}
    return Looking(**(values | changes))


def notebook(path, **changes):
    return Notebook(path, **({"repository": "acme/widgets", "model": "m", "prompt": "p"} | changes))


def test_all_are_asked_and_ranked():
    model = FakeModel(*[good() for _ in ISSUES])
    heard = []
    looked = looking(model, told=heard.append).through(ISSUES)
    assert (looked.fresh, looked.kept, looked.stopped) == (16, 0, None)
    assert looked.usd == pytest.approx(16)
    assert looked.usage == Usage(prompt=1600, cached=640, completion=160)
    assert [one.rank for one in looked.issues] == list(range(1, 17))
    assert len(heard) == 16


@pytest.mark.parametrize(("budget", "asked"), [(0, 0), (0.5, 1), (1, 1), (3, 3), (15.9, 15), (16, 16)])
def test_a_budget_is_kept(budget, asked):
    looked = looking(FakeModel(*[good() for _ in ISSUES]), budget=budget).through(ISSUES)
    assert looked.fresh == asked
    assert looked.stopped == (None if asked == 16 else "the budget is used up")
    left = [one for one in looked.issues if one.why_not == "not asked: the budget is used up"]
    assert len(left) == 16 - asked


def test_what_was_answered_is_not_asked_again_and_counts(tmp_path):
    with notebook(tmp_path / "kept") as kept:
        first = looking(FakeModel(*[good() for _ in ISSUES]), kept, budget=5).through(ISSUES)
    assert first.fresh == 5
    with notebook(tmp_path / "kept") as kept:
        second = looking(FakeModel(*[good() for _ in ISSUES]), kept, budget=8).through(ISSUES)
    assert (second.kept, second.fresh, second.usd_before) == (5, 3, 5)
    with notebook(tmp_path / "kept") as kept:
        changed = [ISSUES[0].model_copy(update={"body": "other words now"}), *ISSUES[1:]]
        third = looking(FakeModel(*[good() for _ in ISSUES]), kept).through(changed)
    assert (third.kept, third.fresh) == (7, 9)


def test_a_model_that_is_down_ends_it_and_loses_nothing(tmp_path):
    model = FakeModel(*[good() for _ in range(3)], *[ModelUnavailable("refused")] * 20)
    with notebook(tmp_path / "kept") as kept, pytest.raises(ModelGaveUp, match=f"{DOWN} questions in a row"):
        looking(model, kept, concurrency=1).through(ISSUES)
    with notebook(tmp_path / "kept") as kept:
        assert looking(FakeModel(*[good() for _ in ISSUES]), kept).through(ISSUES).kept == 3


def test_one_question_that_is_refused_is_that_ones_end():
    model = FakeModel(good(), ModelRejected("too long for me"), *[good() for _ in ISSUES])
    looked = looking(model, concurrency=1).through(ISSUES)
    assert looked.fresh == 16
    assert [one.issue.number for one in looked.issues if one.why_not == "too long for me"] == [2]


def test_broken_answers_are_kept_as_what_they_are(tmp_path):
    model = FakeModel(say("no"), say("no"), *[good() for _ in ISSUES])
    with notebook(tmp_path / "kept") as kept:
        looked = looking(model, kept, concurrency=1).through(ISSUES)
    assert looked.issues[-1].why_not == "no usable answer in 2 tries: it calls no tool"
    with notebook(tmp_path / "kept") as kept:
        assert looking(FakeModel(), kept).through(ISSUES).kept == 16


def test_stopping_ends_the_calls_under_way_and_asks_them_again_next_time(tmp_path):
    cancel = threading.Event()

    def slow(deadline, told):
        cancel.set()
        assert told.wait(10)
        return say("", finish_reason="abort")

    model = FakeModel(good(), good(), slow, slow, slow, slow)
    with notebook(tmp_path / "kept") as kept:
        looked = looking(model, kept, concurrency=1, cancel=cancel).through(ISSUES)
    assert looked.stopped == "stopped"
    assert [one.why_not for one in looked.issues].count("stopped") == 1
    with notebook(tmp_path / "kept") as kept:
        assert looking(FakeModel(*[good() for _ in ISSUES]), kept).through(ISSUES).kept == 2


def test_a_group_is_asked_about_once():
    twin = ISSUES[3].model_copy(update={"number": 99})
    looked = looking(FakeModel(*[good() for _ in ISSUES])).through([*ISSUES, twin])
    assert looked.fresh == 16
    found = {one.issue.number: one for one in looked.issues}
    assert found[99].why_not == "the same as #4"
    assert found[4].also == (99,)


def test_a_notebook_whose_last_line_was_cut_off_goes_on(tmp_path):
    path = tmp_path / "kept"
    with notebook(path) as kept:
        kept.keep(ISSUES[0], Asked(number=1))
        kept.keep(ISSUES[1], Asked(number=2))
    path.write_bytes(path.read_bytes()[:-20])
    with notebook(path) as kept:
        assert (kept.answer(ISSUES[0]), kept.answer(ISSUES[1])) == (Asked(number=1), None)
        kept.keep(ISSUES[1], Asked(number=2))
    with notebook(path) as kept:
        assert kept.answer(ISSUES[1]) == Asked(number=2)


@pytest.mark.parametrize("changes", [{"model": "other"}, {"prompt": "other"}, {"repository": "other"}])
def test_a_notebook_of_other_questions_is_refused(tmp_path, changes):
    notebook(tmp_path / "kept").close()
    with pytest.raises(SettingsError, match=f"another {next(iter(changes))}"):
        notebook(tmp_path / "kept", **changes)


def test_a_file_that_is_no_notebook_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear all,\n")
    with pytest.raises(SettingsError, match="line 1: not of a triage"):
        notebook(path)
    assert path.read_text() == "Dear all,\n"


def of_file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_issues(path)


def test_files_as_github_writes_them(tmp_path):
    api = {"number": 1, "title": "T", "body": None, "labels": [{"name": "bug"}], "user": {"login": "a"}, "comments": 3}
    gh = {
        "number": 2,
        "title": "U",
        "labels": [],
        "author": {"login": "b"},
        "comments": [{}],
        "createdAt": "2026-01-02T03:04:05Z",
    }
    pull = {"number": 3, "title": "P", "pull_request": {}}
    closed = {"number": 4, "title": "C", "state": "CLOSED"}
    first, second = of_file(tmp_path, "a.json", json.dumps([api, gh, pull, closed]))
    assert (first.body, first.labels, first.author, first.comments) == ("", ("bug",), "a", 3)
    assert (second.comments, second.created_at.year) == (1, 2026)
    (third,) = of_file(tmp_path, "a.csv", 'number,title,labels,body\n5,"A, b","bug, ui","two\nlines"\n')
    assert (third.title, third.labels, third.body) == ("A, b", ("bug", "ui"), "two\nlines")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.json", "", "no JSON"),
        ("a.json", "{}", "no JSON list"),
        ("a.json", "[1]", "entry 1: no JSON object"),
        ("a.json", '[{"number": 1, "title": "a"}, {"title": "b"}]', "entry 2: number"),
        ("a.json", '[{"number": -1, "title": "a"}]', "entry 1: number"),
        ("a.json", '[{"number": 1, "title": "a"}, {"number": 1, "title": "b"}]', "another issue 1"),
        ("a.json", '[{"number": 1, "title": "a", "labels": "bug"}]', "entry 1: labels"),
        ("a.csv", "title\na\n", "no column number"),
        ("a.csv", "", "no column number and no column title"),
        ("a.json", "[" * 100_000, "no JSON"),
    ],
)
def test_files_that_are_none(tmp_path, name, text, why):
    with pytest.raises(SettingsError, match=why):
        of_file(tmp_path, name, text)


EVIL = "@octo-admin <img src=x onerror=alert(1)> [a](javascript:x) | fixes #1 `x` https://evil.example\u202e"


def test_reports_are_inert():
    issues = [
        BacklogIssue(number=1, title=EVIL),
        BacklogIssue(number=2, title="=HYPERLINK(1)", body=WORDS[3] * 4),
    ]
    model = FakeModel(good(reason=EVIL), good(solvable=False, reason="+cmd|' /C calc'!A0"))
    looked = looking(model, concurrency=1).through(issues)
    each = forecast((), Price())
    text = report.as_markdown(looked, each, repository=EVIL, model=EVIL)
    html = MarkdownIt("commonmark").enable("table").render(text)
    for alive in ("<img", "<a ", "\u202e"):
        assert alive not in html
    outside = re.sub(r"<code>.*?</code>", "", html)
    for alive in ("@octo", "fixes", "#1", "https:", "HYPERLINK", "cmd"):
        assert alive in html
        assert alive not in outside, outside
    rows = list(csv.DictReader(io.StringIO(report.as_csv(looked.issues))))
    assert [row["title"] for row in rows] == [f"'{EVIL}", "'=HYPERLINK(1)"]
    assert rows[1]["reason"].startswith("'+cmd")
    told = report.data(looked, each, repository="r", model="m")
    assert json.loads(json.dumps(told))["advised"] == 1
    assert any("published sizes" in line for line in report.summary(looked, each))
