"""Loading of a tekken vocabulary for Devstral's wire format (mistral-common's tokenizer version 13 and later).

Importing this module imports mistral-common (about a second): `agent.tokens` does it on first use. Nothing here
reaches for the network; only local files are read.
"""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import mistral_common
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, SpecialTokens, TokenizerVersion
from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV13, InstructTokenizerV15
from mistral_common.tokens.tokenizers.tekken import SpecialTokenInfo, Tekkenizer

# The longest text handed to the regex in one go after it gave up: its backtracking stack ends at about a million
# repetitions of one white-space character.
_PIECE = 20_000


class _Tekken(Tekkenizer):
    """Tekkenizer whose `encode` answers for every text: a text that overflows the regex's stack goes in pieces. What is
    done for each token of each step is done the short way; the results are its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._made = False
        super().__init__(*args, **kwargs)
        self._made = True

    def id_to_piece(self, token_id: int) -> str:
        """Asked for each token there is while this is made, for a list that `vocab` alone gives: half of the time."""
        return super().id_to_piece(token_id) if self._made else ""

    def vocab(self) -> list[str]:
        return [self.id_to_piece(token) for token in range(self.n_words)]

    @cached_property
    def num_special_tokens(self) -> int:
        """Asked for with each token that is encoded or decoded, so it is counted once: else it is a third of both."""
        return super().num_special_tokens

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        first = self.num_special_tokens
        # No text spells a special token here; `encode` would look for one at each character.
        ids = [token + first for token in self._model.encode_ordinary(s)] if len(s) <= _PIECE else self._long(s)
        return [*([self.bos_id] if bos else []), *ids, *([self.eos_id] if eos else [])]

    def _long(self, s: str) -> list[int]:
        try:
            return super().encode(s, False, False)
        except ValueError:
            pieces = (super(_Tekken, self).encode(s[i : i + _PIECE], False, False) for i in range(0, len(s), _PIECE))
            return [token for piece in pieces for token in piece]

    def decode(self, tokens: list[int], special_token_policy: SpecialTokenPolicy = SpecialTokenPolicy.IGNORE) -> str:
        first = self.num_special_tokens
        if min(tokens, default=0) < first:
            return super().decode(tokens, special_token_policy)
        return self._model.decode([token - first for token in tokens])


def load(path: Path | None, bundled: str) -> InstructTokenizerV13:
    """The tokenizer of `path`, or of mistral-common's `bundled` vocabulary when it is None: the same one for the same
    file, as long as that is not written anew. Safe to share between threads.

    Raises ValueError for a file that is no tekken vocabulary or is older than version 13 (older wire formats move the
    tool list to the last user message, so a history would not be append-only), and OSError when it can't be read.
    """
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    found = file_of(path, bundled).stat()
    return _loaded(path, bundled, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=2)  # a hundred megabytes each
def _loaded(path: Path | None, bundled: str, mtime: int, size: int) -> InstructTokenizerV13:
    del mtime, size  # they tell one file from the next of its name
    if path is None:
        return InstructTokenizerV13(_bundled(bundled))
    try:
        tekken = _Tekken.from_file(path)
        version = TokenizerVersion(tekken.version)
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise ValueError(f"{path} is not a tekken vocabulary ({type(error).__name__}: {error})") from error
    if version == TokenizerVersion.v13:
        return InstructTokenizerV13(tekken)
    if version == TokenizerVersion.v15:
        return InstructTokenizerV15(tekken)
    raise ValueError(f"{path} is a tekken vocabulary of version {version.value}; Devstral 2 needs v13 or later")


def file_of(path: Path | None, bundled: str) -> Path:
    """The file that `load` reads with the same arguments."""
    return path or Path(mistral_common.__file__).parent / "data" / f"{bundled}.json"


def _bundled(name: str) -> _Tekken:
    """The bundled vocabulary with the special tokens of version 13 put into its reserved slots.

    The file itself stops at version 3. Which slot each token takes is arbitrary here and the real one may differ; no
    count depends on it.
    """
    data = json.loads(file_of(None, name).read_text(encoding="utf-8"))
    known = list(Tekkenizer.DEPRECATED_SPECIAL_TOKENS)
    newer = (SpecialTokens.args, SpecialTokens.call_id, SpecialTokens.begin_think, SpecialTokens.end_think)
    known += [
        SpecialTokenInfo(rank=len(known) + i, token_str=token.value, is_control=True) for i, token in enumerate(newer)
    ]
    config = data["config"]
    return _Tekken(
        vocab=data["vocab"],
        special_tokens=known,
        pattern=config["pattern"],
        vocab_size=config["default_vocab_size"],
        num_special_tokens=config["default_num_special_tokens"],
        version=TokenizerVersion.v13,
        name=name,
    )
