"""What models cost: a catalogue in data, each price with its date and where it is from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from importlib.resources import files

from pydantic import Field

from agent.types import Price, Usage
from worker.errors import SettingsError


class Entry(Price):
    """One model's price, and what is known about that price."""

    name: str
    date: date
    source: str = Field(min_length=1, description="in plain words")
    profiles: tuple[str, ...] = ()

    @property
    def price(self) -> Price:
        return Price.model_validate({field: getattr(self, field) for field in Price.model_fields})

    @property
    def is_range(self) -> bool:
        """No price for cached input is known, at one of its tiers at least."""
        return any(rates.cached is None for rates in (self, *self.tiers))

    def equivalent(self, tokens: Mapping[int, Usage]) -> tuple[float, float]:
        """USD, at least and at most, of sums of calls by the border of `context_border` that they were above."""
        parts = [self.rates(border + 1).range(usage) for border, usage in tokens.items()]
        return sum(low for low, _ in parts), sum(high for _, high in parts)


@cache
def catalogue() -> Mapping[str, Entry]:
    """All known prices by the model's key, read once."""
    text = files(__name__).joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {key: Entry.model_validate(values) for key, values in tomllib.loads(text).items()}


def entry(key: str) -> Entry:
    """SettingsError names what there is."""
    known = catalogue()
    if key not in known:
        raise SettingsError(f"no price is known for {key!r}; known: {', '.join(known)}")
    return known[key]


def of_profile(profile: str) -> Entry:
    """The price of a profile's model; a profile of your own making counts as the small model."""
    known = catalogue()
    return next((e for e in known.values() if profile in e.profiles), known["devstral-small-2"])


def context_border(prompt_tokens: int, entries: Iterable[Entry] | None = None) -> int:
    """The largest border of any tier that a call's prompt is above, or 0: totals are kept apart by it, so that a price
    which depends on the size of each call can be applied to sums."""
    borders = {tier.above for known in (entries or catalogue().values()) for tier in known.tiers}
    return max((border for border in borders if prompt_tokens > border), default=0)
