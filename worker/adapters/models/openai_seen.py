"""What one server was seen to do, remembered for later calls: fields it refuses, its window, what it leaves out."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from agent.types import Usage
from worker.adapters.models.dialects import FIELDS, Card, Field


class Seen:
    """Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: frozenset[Field] = frozenset()
        self._window: int | None = None
        self.card: Card | None = None
        self.usage_told: bool | None = None  #: None: no answer yet
        self.cache_told: bool | None = None

    @property
    def window(self) -> int | None:
        """Tokens of prompt and answer; None: it never said."""
        return self._window

    @property
    def streams(self) -> bool:
        return not any(field.name == "stream" for field in self._refused)

    def listed(self, card: Card | None) -> None:
        self.card = card
        if card is not None and card.window is not None:
            self.window_is(card.window)

    def window_is(self, tokens: int) -> None:
        """The smaller one counts: a router may know less of a server than the server."""
        with self._lock:
            self._window = min(tokens, self._window or tokens)

    def refuses(self, fields: Iterable[Field]) -> None:
        with self._lock:
            self._refused |= frozenset(fields)

    def answered(self, usage: Usage | None) -> None:
        """Cached tokens that were told once are told: some servers leave them out where there are none."""
        self.usage_told = usage is not None
        if usage is not None:
            self.cache_told = bool(self.cache_told) or not usage.cache_untold

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`asked` as this server takes it."""
        refused = {field.name: field for field in self._refused}
        if "stream" in refused:
            refused["stream_options"] = refused["stream"]
        taken = {name: value for name, value in asked.items() if name not in refused}
        for name in asked.keys() & refused.keys():
            if other := refused[name].instead:
                taken[other] = asked[name]
        return taken

    def lacking(self) -> list[str]:
        """What this server was seen not to give, and what comes of it, for people. Empty before its first answer."""
        said = []
        if self.cache_told is False and self.usage_told:
            mend = self.card.server.cached if self.card and self.card.server else ""
            said.append(
                "cached tokens are not told: what was computed again is unknown, and costs are ranges"
                + f" ({mend})" * bool(mend)
            )
        if self.usage_told is False:
            said.append("usage is not told: tokens are counted here")
        if self.usage_told is not None and self._window is None:
            said.append("its window is not told: context_tokens in DEVSTRAL_FIX_LIMITS has to be right")
        said += [f"{field.name} is refused: {_instead(field)}" for field in FIELDS if field in self._refused]
        return said


def _instead(field: Field) -> str:
    return field.lost or (f"{field.instead} is sent" if field.instead else "it is left out")
