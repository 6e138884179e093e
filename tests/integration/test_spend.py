"""`spend`, `batches` and `quarantine` on the command line, over a real database."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from sqlalchemy import select, text

from agent.types import Usage
from tests.factories import queue_run
from worker.runs import ledger, states, totals
from worker.store.models import Run
from worker.store.money import Account, Quarantine

CALLS = (  # repository, usage, USD at least, at most
    ("acme/a", Usage(prompt=100_000, cached=97_000, completion=1000), 0.0006, 0.0103),
    ("acme/a", Usage(prompt=250_000, cached=0, completion=1000), 0.0253, 0.0253),
    ("acme/b", Usage(prompt=1000, cached=0, completion=10), 0.000103, 0.000103),
)


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
    first, second = json.loads(out)
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
    assert "GPT-5.1-codex-max: a compilation" in table
    assert "range" not in ask("spend", "--by", "model", "--until", "2020-01-01")


def test_what_a_server_did_not_tell_is_not_shown_as_none(ask, spent, store):
    with store.transaction() as session:
        queue_run(session, 9, repository="acme/c")
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
        usage, what = Usage(prompt=5000, cache_untold=5000), {"seconds": 1, "profile": "small-24b", "model": "m"}
        ledger.book(session, lease, call=0, usage=usage, cost=0.0005, cost_low=0.0, **what)
    table = ask("spend", "--by", "repository").splitlines()
    assert next(line.split()[:4] for line in table if line.startswith("acme/c")) == ["acme/c", "1", "5,000", "?"]
    assert any(line.startswith("A ?: for part of the input") for line in table)
    assert json.loads(ask("spend", "--by", "repository", "--json"))[2]["cache_untold_tokens"] == 5000
    with store.transaction() as session:
        assert totals.differences(session) == []


def test_csv_has_two_columns_for_a_range(ask, spent):
    head, row, *_ = ask("spend", "--by", "repository", "--equivalent", "devstral-2", "--csv").splitlines()
    assert head.endswith("actual_usd_low,actual_usd_high,devstral-2_low,devstral-2_high")
    assert row.startswith("acme/a,False,2,350000,97000,0,2000,0.0,0.0259,0.0356,")


def test_the_totals_are_checked_against_the_rows(ask, spent, store):
    assert "0 differences" in ask("spend", "--check")
    with store.transaction() as session:
        session.execute(text("UPDATE spend_days SET calls = calls + 1 WHERE repository = 'acme/b'"))
    out = ask("spend", "--check", status=1)
    assert "acme/b openai:m@host small-24b fix devstral-fix 0: totals calls=2" in out.replace("RunKind.FIX", "fix")
    assert "1 differences" in out


def test_an_unknown_model_is_refused_by_name(ask, spent):
    assert "no price is known" in ask("spend", "--equivalent", "gpt-9", status=2)


def test_a_batch_is_made_shown_and_given_more(ask, store):
    batch = ask("batches", "create", "--name", "backlog", "--budget-usd", "2.50").strip()
    head, row = ask("batches", "list").splitlines()
    assert head.split() == ["batch", "name", "state", "runs", "spent", "budget"]
    assert row.split() == [batch, "backlog", "open", "0", "$0.0000", "$2.5000"]
    assert "40.00" in ask("batches", "budget", batch, "40")
    assert json.loads(ask("batches", "show", batch, "--json"))["budget_usd"] == 40.0
    for usd in ("nan", "-1", "-0.01", "1e8"):
        ask("batches", "create", "--name", "x", "--budget-usd", usd, status=2)
        ask("batches", "budget", batch, "--", usd, status=2)
    for name in ("", "  ", "two\nlines"):
        assert "needs a name" in ask("batches", "create", "--name", name, status=2)
    assert len(json.loads(ask("batches", "list", "--json"))) == 1
    assert "there is no batch" in ask("batches", "show", "01990000-0000-7000-8000-000000000000", status=1)


def test_a_batch_s_spend_is_a_range_where_it_is_one(ask, spent, store):
    batch = ask("batches", "create", "--name", "backlog").strip()
    with store.transaction() as session:
        run = session.scalars(select(Run).where(Run.repository == "acme/a").order_by(Run.id)).first()
        run.batch_id = UUID(batch)
        session.add(Account(scope="batch", key=batch, spent_usd=run.usd))
    assert "$0.0006 to $0.0103" in ask("batches", "show", batch)
    shown = json.loads(ask("batches", "show", batch, "--json"))
    assert (shown["spent_usd_low"], shown["spent_usd"]) == (0.0006, 0.0103)


def test_a_run_s_cost_is_the_same_everywhere(ask, spent, store):
    first = json.loads(ask("runs", "list", "--json"))[-1]
    assert (first["cost_usd_low"], first["cost_usd"]) == (0.0006, 0.0103)
    assert ask("runs", "list").splitlines()[-1].endswith("$0.0006 to $0.0103")
    shown = ask("runs", "show", first["run_id"])
    assert "0 out" in shown
    assert shown.count("$0.0006 to $0.0103") == 2, "the run's and its attempt's"
    exact = ask("runs", "list").splitlines()[1]
    assert exact.split()[1:] == ["acme/b#3", "running", "$0.0001"]


@pytest.mark.parametrize(
    "arguments", [("runs", "list"), ("batches", "list"), ("workers", "list"), ("quarantine", "list"), ("spend",)]
)
def test_an_empty_list_is_said_to_be_one(ask, arguments):
    assert ask(*arguments).startswith("None: ")
    assert json.loads(ask(*arguments, "--json")) == []


def test_a_quarantine_is_listed_and_lifted(ask, store):
    with store.transaction() as session:
        session.add(Quarantine(repository="acme/a", issue_number=7, reason="it broke"))
    assert ask("quarantine", "list").splitlines()[1].split(maxsplit=2) == ["acme/a#7", "lifted", "it broke"]
    assert "lifted" in ask("quarantine", "lift", "acme/a#7", "--by", "octo")
    assert "is not in quarantine" in ask("quarantine", "lift", "acme/a#7", status=1)
    for what in (
        "",
        "acme",
        "acme/",
        "acme/a/b",
        "acme/a#",
        "acme/a#x",
        "acme/a#0",
        "acme/a#99999999999",
        "acme/ä",
        "a b/c",
    ):
        assert "OWNER/REPO" in ask("quarantine", "lift", what, status=2)
