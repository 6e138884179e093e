"""Text of a planned number of tokens, so that the code that encodes real conversations does the same work here."""

from __future__ import annotations

import random
import re
from typing import Any

from agent.tokens import TokenCounter
from worker.errors import SettingsError

_WORD = re.compile(rb" [a-z]{3,9}")
_KEPT, _FEWEST = 4096, 64


class Filler:
    """Words that are single tokens of a vocabulary; checked here once."""

    def __init__(self, counter: TokenCounter) -> None:
        """Raises SettingsError for a vocabulary with too few such words, TokenizerUnusable for none at all."""
        tekken: Any = counter.load().tokenizer
        self._words: list[str] = []
        for token in range(tekken.num_special_tokens, tekken.n_words):
            piece = tekken.id_to_byte_piece(token)
            if _WORD.fullmatch(piece) and tekken.encode(piece.decode(), False, False) == [token]:
                self._words.append(piece.decode())
                if len(self._words) == _KEPT:
                    break
        if len(self._words) < _FEWEST:
            raise SettingsError(f"tokenizer {counter.label} has {len(self._words)} whole words; {_FEWEST} are needed")

    def text(self, tokens: int, *key: object) -> str:
        """So many tokens; another text for another key."""
        source = random.Random(":".join(map(str, key)))  # noqa: S311 - filler
        return "".join(source.choices(self._words, k=tokens))
