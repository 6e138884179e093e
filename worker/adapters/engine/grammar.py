"""Grammars (Lark, as llguidance reads it) that an answer has to match: a given answer, or a call of one of the tools.

The format's markers are tokens, and stand in a grammar by their ids. A grammar costs: each is compiled once, and every
token of an answer is masked by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.types import ToolSpec
from worker.adapters.engine.answer import AnswerReader


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens before a call's name and before its arguments."""

    call: int
    args: int

    @classmethod
    def of(cls, reader: AnswerReader) -> Marks:
        return cls(reader.call, reader.args)


def one_of(tools: Sequence[ToolSpec], marks: Marks) -> str:
    """Exactly one call, of one of these tools, with arguments that its schema allows."""
    return "start: " + " | ".join(f"({_call(tool.name, marks)} %json {_schema(tool)})" for tool in tools) + "\n"


def forced_call(name: str, arguments: Mapping[str, Any], marks: Marks) -> str:
    """This call and no other."""
    return f"start: {_call(name, marks)} {_text(json.dumps(arguments, ensure_ascii=False))}\n"


def forced_text(text: str) -> str:
    """This text, without a call."""
    return f"start: {_text(text)}\n"


def _call(name: str, marks: Marks) -> str:
    return f"<[{marks.call}]> {_text(name)} <[{marks.args}]>"


def _schema(tool: ToolSpec) -> str:
    # Where blanks are free, a model that is unsure may write hundreds of them.
    return json.dumps({"x-guidance": {"whitespace_flexible": False}, **tool.parameters})


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
