"""An answer's token ids as text and tool calls. The markers are tokens, so what looks like one in text is text.

The format is `[TOOL_CALLS]name[ARGS]{json}`, repeated. What deviates from it is read as far as its meaning is plain,
and counted; what is not is left as it stands, for the harness to tell the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV13

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MARK, _ARGS = "[TOOL_CALLS]", "[ARGS]"


class Repair(StrEnum):
    """What had to be understood, where an answer was not written as the format wants it."""

    MARKER_AS_TEXT = "marker_as_text"  # spelled out instead of generated as the one token
    NO_ARGS_MARKER = "no_args_marker"  # name{json}
    OLD_LIST = "old_list"  # [TOOL_CALLS][{"name": …, "arguments": …}]
    TRAILING_TEXT = "trailing_text"  # something behind the JSON object
    STRAY_BRACE = "stray_brace"  # an opening brace before the first marker


@dataclass(frozen=True)
class Read:
    """`calls`: (name, arguments as written). `raw`: the whole answer, markers spelled out, where it was not plain."""

    content: str
    calls: tuple[tuple[str, str], ...] = ()
    repairs: tuple[Repair, ...] = ()
    raw: str | None = None


class AnswerReader:
    """Reads answers of one vocabulary. Stateless; safe for threads."""

    def __init__(self, tokenizer: InstructTokenizerV13) -> None:
        self._tokenizer: Any = tokenizer.tokenizer
        self.eos: int = self._tokenizer.eos_id
        self.vocabulary_size: int = self._tokenizer.n_words
        self.call: int = self._tokenizer.get_special_token(_MARK)
        self.args: int = self._tokenizer.get_special_token(_ARGS)
        self._call_id: int = self._tokenizer.get_special_token("[CALL_ID]")

    def read(self, ids: Sequence[int]) -> Read:
        """Never raises for what a model generated."""
        tokens = [token for token in ids if token != self.eos]
        before, *parts = _split(tokens, self.call)
        content, repairs, calls = self._text(before).strip(), [], []
        if not parts:
            return self._in_text(content)
        if content.endswith("{"):
            content = content[:-1].rstrip()
            repairs.append(Repair.STRAY_BRACE)
        for part in parts:
            found, repaired = self._one(part)
            calls += found
            repairs += repaired
        unnamed = any(not NAME.fullmatch(name) for name, _ in calls)
        raw = self._text(tokens, keep=True) if repairs or unnamed else None
        return Read(content, tuple(calls), tuple(repairs), raw)

    def _one(self, part: list[int]) -> tuple[list[tuple[str, str]], list[Repair]]:
        """What stands behind one marker."""
        if self.args in part:
            at = part.index(self.args)
            head = part[:at]
            if self._call_id in head:
                head = head[: head.index(self._call_id)]
            return _arguments(self._text(head).strip(), self._text(part[at + 1 :]))
        return _unmarked(self._text(part))

    def _in_text(self, text: str) -> Read:
        """An answer without the marker's token; it may have spelled it out."""
        if _MARK not in text:
            return Read(text)
        content, *parts = text.split(_MARK)
        calls: list[tuple[str, str]] = []
        repairs = [Repair.MARKER_AS_TEXT]
        for part in parts:
            name, mark, arguments = part.partition(_ARGS)
            found, more = _arguments(name.strip(), arguments) if mark else _unmarked(part)
            if not all(NAME.fullmatch(name) and _is_object(arguments) for name, arguments in found):
                return Read(text, raw=text)  # a text about the marker, perhaps; half a call is not a call
            calls += found
            repairs += more
        return Read(content.strip(), tuple(calls), tuple(repairs), text)

    def _text(self, ids: list[int], *, keep: bool = False) -> str:
        policy = SpecialTokenPolicy.KEEP if keep else SpecialTokenPolicy.IGNORE
        return str(self._tokenizer.decode(ids, special_token_policy=policy))


def _split(ids: list[int], mark: int) -> list[list[int]]:
    at = [place for place, token in enumerate(ids) if token == mark]
    return [ids[start:end] for start, end in zip([0, *(place + 1 for place in at)], [*at, len(ids)], strict=True)]


def _arguments(name: str, text: str) -> tuple[list[tuple[str, str]], list[Repair]]:
    stripped = text.strip()
    end = _object_end(stripped)
    if end is not None and end < len(stripped):
        return [(name, stripped[:end])], [Repair.TRAILING_TEXT]
    return [(name, stripped)], []


def _unmarked(text: str) -> tuple[list[tuple[str, str]], list[Repair]]:
    text = text.strip()
    if text.startswith("["):
        try:
            listed = json.loads(text)
            calls = [(str(call["name"]), json.dumps(call["arguments"], ensure_ascii=False)) for call in listed]
        except (ValueError, KeyError, TypeError, RecursionError):
            return [("", text)], []
        return calls, [Repair.OLD_LIST]
    name, brace, rest = text.partition("{")
    calls, repairs = _arguments(name.strip(), brace + rest)
    return calls, [Repair.NO_ARGS_MARKER, *repairs] if brace else repairs


def _object_end(text: str) -> int | None:
    """Where the JSON object at the start of `text` ends; None when there is none."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return end if isinstance(value, dict) else None


def _is_object(text: str) -> bool:
    return _object_end(text) == len(text)
