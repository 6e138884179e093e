"""The catalogue of prices: its figures, ranges where cached input has no price, and rates by a call's context."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.types import Price, Tier, Usage
from worker import prices
from worker.errors import SettingsError
from worker.settings import Settings

MILLION = 1_000_000


def per_million(key: str, prompt_tokens_of_a_call: int = 100_000) -> tuple[float, float]:
    """USD of a million tokens in and of a million out, in calls of that size."""
    rates = prices.entry(key).price.rates(prompt_tokens_of_a_call)
    return rates.range(Usage(prompt=MILLION))[1], rates.range(Usage(completion=MILLION))[1]


@pytest.mark.parametrize(
    ("key", "dollars_in", "dollars_out"),
    [
        ("devstral-small-2", 0.10, 0.30),
        ("devstral-2", 0.40, 2.00),
        ("claude-sonnet-4.5", 3, 15),
        ("claude-opus-4.5", 5, 25),
        ("gpt-5.1-codex-max", 1.25, 10),
        ("gemini-3-pro", 2, 12),
    ],
)
def test_what_a_million_tokens_cost(key, dollars_in, dollars_out):
    assert per_million(key) == pytest.approx((dollars_in, dollars_out))


@pytest.mark.parametrize(
    ("key", "times_in", "times_out"),
    [("claude-opus-4.5", 12.5, 12.5), ("gpt-5.1-codex-max", 3.125, 5.0), ("claude-sonnet-4.5", 7.5, 7.5)],
)
def test_how_many_times_the_large_devstral_others_cost(key, times_in, times_out):
    ours, theirs = per_million("devstral-2"), per_million(key)
    assert (theirs[0] / ours[0], theirs[1] / ours[1]) == pytest.approx((times_in, times_out))


def test_every_price_has_a_date_and_a_source():
    for entry in prices.catalogue().values():
        assert entry.date.year >= 2025
        assert entry.source
        assert "http" not in entry.source


def test_rates_depend_on_the_context_of_each_call():
    price = prices.entry("gemini-3-pro").price
    assert price.cost(Usage(prompt=200_000, completion=1000)) == pytest.approx(0.412)
    assert price.cost(Usage(prompt=200_001, completion=1000)) == pytest.approx(0.818004)
    assert price.worst(200_001, 1000) == price.cost(Usage(prompt=200_001, completion=1000))


def test_sums_are_priced_by_the_border_that_their_calls_were_above():
    assert [prices.context_border(tokens) for tokens in (0, 200_000, 200_001)] == [0, 0, 200_000]
    entry = prices.entry("gemini-3-pro")
    sums = {0: Usage(prompt=300_000), 200_000: Usage(prompt=250_000)}
    assert entry.equivalent(sums) == pytest.approx((0.6 + 1.0, 0.6 + 1.0))


def test_without_a_price_of_cached_input_a_cost_is_a_range():
    usage = Usage(prompt=MILLION, cached=970_000)
    assert prices.entry("claude-sonnet-4.5").equivalent({0: usage}) == pytest.approx((0.09, 3.0))
    assert prices.entry("claude-opus-4.5").equivalent({0: usage}) == pytest.approx((0.635, 0.635))
    assert prices.entry("claude-sonnet-4.5").is_range
    assert not prices.entry("claude-opus-4.5").is_range


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(SettingsError, match=r"no price is known for 'gpt-9'; known: devstral-small-2, devstral-2"):
        prices.entry("gpt-9")


def test_tiers_ascend():
    with pytest.raises(ValidationError, match="ascending"):
        Price(tiers=(Tier(above=2), Tier(above=1)))


def test_gpu_time_prices_the_calls_that_carry_it():
    price = Settings.load(gpu_usd_per_hour=3.6).prices
    assert price.call(Usage(prompt=MILLION, gpu_seconds=10)) == pytest.approx((0.01, 0.01))
    assert price.cost(Usage(prompt=MILLION)) == pytest.approx(0.10), "its share of GPU time is not known"
    assert (Usage(gpu_seconds=1.5) + Usage() + Usage(gpu_seconds=2)).gpu_seconds == 3.5
    assert (Usage() + Usage()).gpu_seconds is None


def test_without_a_word_of_the_cache_a_cost_is_a_range_at_any_price():
    usage = Usage(prompt=MILLION, cached=500_000, cache_untold=400_000)
    assert Price(prompt=1.0, cached=0.1).call(usage) == pytest.approx((0.1 + 0.05 + 0.04, 0.1 + 0.05 + 0.4))
    assert Price(prompt=1.0).call(usage) == pytest.approx((0.1, 1.0))
    assert Price(prompt=1.0, cached=0.1).cost(usage) == Price(prompt=1.0, cached=0.1).call(usage)[1]


def test_untold_tokens_are_part_of_the_prompt():
    with pytest.raises(ValidationError, match="exceed prompt tokens"):
        Usage(prompt=10, cached=6, cache_untold=5)
