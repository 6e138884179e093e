"""Money as people see it, and the footer that every result carries."""

from __future__ import annotations

from decimal import Decimal

import pytest

from agent.types import Usage
from worker import money
from worker.stages import texts


@pytest.mark.parametrize(
    ("amounts", "shown"),
    [
        ((Decimal("2.5"),), "$2.5000"),
        ((0.0103, 0.0103), "$0.0103"),
        ((Decimal("0.01034"), Decimal("0.01031")), "$0.0103"),
        ((Decimal("0.0006"), Decimal("0.0103")), "$0.0006 to $0.0103"),
    ],
)
def test_a_range_is_one_where_it_can_be_seen(amounts, shown):
    assert money.usd(*amounts) == shown


def test_a_footer_shows_the_range():
    about = {"calls": 2, "model": "m", "tokenizer": "t", "isolation": "strict"}
    footer = texts.accounting(Usage(prompt=1000, cached=970), (Decimal("0.0006"), Decimal("0.0103")), **about)
    assert "; cost $0.0006 to $0.0103." in footer


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        (Usage(prompt=1000), "1,000 in (of which 0 cached)"),
        (Usage(prompt=1000, cache_untold=1000), "1,000 in (how many of them cached was not told)"),
        (Usage(prompt=1000, cached=100, cache_untold=300), "(of which 100 cached, and of 300 it was not told)"),
    ],
)
def test_a_footer_does_not_take_unknown_for_nothing(usage, shown):
    about = {"calls": 2, "model": "m", "tokenizer": "t", "isolation": "strict"}
    assert shown in texts.accounting(usage, (Decimal(0), Decimal(0)), **about)


def test_a_footer_names_every_model_that_was_paid():
    about = {"model": "vllm:b", "tokenizer": "t", "isolation": "strict"}
    footer = texts.accounting(Usage(prompt=1), (Decimal(0), Decimal(0)), calls=9, **about, others={"vllm:a": 3})
    assert "Model: vllm:b. Calls: 9, of these 3 by vllm:a. Tokens:" in footer
