"""`spend`, `batches` and `quarantine` on the command line, over a real database."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from agent.types import Usage
from tests.factories import queue_run
from worker.cli import cli
from worker.runs import ledger, states
from worker.store.money import Quarantine

CALLS = (  # repository, usage, USD at least, at most
    ("acme/a", Usage(prompt=100_000, cached=97_000, completion=1000), 0.0006, 0.0103),
    ("acme/a", Usage(prompt=250_000, cached=0, completion=1000), 0.0253, 0.0253),
    ("acme/b", Usage(prompt=1000, cached=0, completion=10), 0.000103, 0.000103),
)


@pytest.fixture
def ask(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", store.engine.url.render_as_string(hide_password=False))

    def ask(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == status, done.output
        return done.output

    return ask


@pytest.fixture
def spent(store):
    with store.transaction() as session:
        for number, (repository, usage, low, high) in enumerate(CALLS, 1):
            queue_run(session, number, repository=repository)
            lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
            what = {"seconds": 1, "profile": "small-24b", "model": "openai:m@host"}
            ledger.book(session, lease, call=0, usage=usage, cost=high, cost_low=low, **what)


def test_actual_and_equivalent_by_repository(ask, spent):
    out = ask(
        "spend", "--by", "repository", "--equivalent", "gemini-3-pro", "--equivalent", "claude-opus-4.5", "--json"
    )
    first, second = map(json.loads, out.splitlines())
    assert (first["repository"], first["calls"], first["prompt_tokens"]) == ("acme/a", 2, 350_000)
    assert first["actual_usd"] == [0.0259, 0.0356]
    # The second call is above 200,000 tokens of context, the first is not.
    assert first["equivalent_usd"]["gemini-3-pro"] == [pytest.approx(1.036), pytest.approx(1.23)]
    opus = (3000 * 5 + 97_000 * 0.5 + 250_000 * 5 + 2000 * 25) / 1e6
    assert first["equivalent_usd"]["claude-opus-4.5"] == [pytest.approx(opus)] * 2
    assert (second["repository"], second["calls"]) == ("acme/b", 1)


def test_a_range_is_said_to_be_one(ask, spent):
    table = ask("spend", "--by", "kind", "--by", "label")
    assert "$0.0260 to $0.0357" in table
    assert "at Claude Sonnet 4.5" in table
    assert "A range: for part of these tokens no price of cached input is known" in table
    assert "GPT-5.1-codex-max: the maker's price list" in table
    assert "range" not in ask("spend", "--by", "model", "--until", "2020-01-01")


def test_csv_has_two_columns_for_a_range(ask, spent):
    head, row, *_ = ask("spend", "--by", "repository", "--equivalent", "devstral-2", "--csv").splitlines()
    assert head.endswith("actual_usd_low,actual_usd_high,devstral-2_low,devstral-2_high")
    assert row.startswith("acme/a,2,350000,97000,2000,0.0,0.0259,0.0356,")


def test_the_totals_are_checked_against_the_rows(ask, spent, store):
    assert "0 differences" in ask("spend", "--check")
    with store.transaction() as session:
        session.execute(text("UPDATE spend_days SET calls = calls + 1 WHERE repository = 'acme/b'"))
    out = ask("spend", "--check", status=1)
    assert "acme/b openai:m@host small-24b fix devstral-fix 0: totals calls=2" in out.replace("RunKind.FIX", "fix")
    assert "1 differences" in out


def test_an_unknown_model_is_refused_by_name(ask, spent):
    assert "no price is known" in str(CliRunner().invoke(cli, ["spend", "--equivalent", "gpt-9"]).exception)


def test_a_batch_is_made_shown_and_given_more(ask, store):
    batch = ask("batches", "create", "--name", "backlog", "--budget-usd", "2.50").strip()
    assert f"{batch}  backlog  open  0 runs  $0.0000 of $2.50" in ask("batches", "list")
    assert "40.00" in ask("batches", "budget", batch, "40")
    assert json.loads(ask("batches", "show", batch, "--json"))["budget_usd"] == 40.0
    ask("batches", "create", "--name", "x", "--budget-usd", "nan", status=2)
    ask("batches", "show", "01990000-0000-7000-8000-000000000000", status=2)


def test_a_quarantine_is_listed_and_lifted(ask, store):
    with store.transaction() as session:
        session.add(Quarantine(repository="acme/a", issue_number=7, reason="it broke"))
    assert "acme/a#7  until lifted  it broke" in ask("quarantine", "list")
    assert "lifted" in ask("quarantine", "lift", "acme/a#7", "--by", "octo")
    assert ask("quarantine", "list") == ""
    ask("quarantine", "lift", "acme/a#7", status=2)
    ask("quarantine", "lift", "acme/a#x", status=2)
