"""Opening a token history at the adapters' border: an unusable vocabulary is a setting to mend."""

from __future__ import annotations

from collections.abc import Sequence

from agent.tokens import TokenCounter, TokenHistory, TokenizerUnusable
from agent.types import ToolSpec
from worker.errors import SettingsError


def open_history(counter: TokenCounter, system: str, tools: Sequence[ToolSpec]) -> TokenHistory:
    """A new history; raises SettingsError naming the tokenizer file that can't be used."""
    try:
        return counter.open(system, tools)
    except TokenizerUnusable as error:
        raise SettingsError(f"{error}; name the model's own tekken.json, or leave it out to count approximately") from (
            error
        )
