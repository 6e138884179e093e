"""What is wrong with an answer: pure functions, each from an answer's text to words, empty where it is right.

Nothing that a model wrote is ever executed: code is parsed and compared.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from agent.types import AssistantMessage
from worker.numbers import numbers

Check = Callable[[str], str]

_LONGEST_LINE = 200  # characters of a line of code; the parser's work and depth grow with them


def number(expected: int) -> Check:
    """The last number of the answer is that one: sums may stand before it."""

    def check(answer: str) -> str:
        found = numbers(answer)
        if not found:
            return f"no number in the answer; expected {expected}"
        return "" if found[-1] == expected else f"expected {expected}"

    return check


def word(*accepted: str) -> Check:
    """One of these words alone, whatever its case; marks around it are free."""
    known = {each.casefold() for each in accepted}

    def check(answer: str) -> str:
        words = re.findall(r"\w+", answer.casefold())
        return "" if len(words) == 1 and words[0] in known else f"expected the one word {' or '.join(accepted)}"

    return check


def only_json(expected: Any) -> Check:
    """JSON with nothing around it, of this value."""

    def check(answer: str) -> str:
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            return "the answer is not JSON only"
        return "" if same(value, expected) else f"expected {json.dumps(expected)}"

    return check


def line_of_code(*accepted: str) -> Check:
    """One line of Python that means what one of these does; a code fence around it is free, blanks are, too."""
    known = {_shape(each) for each in accepted}

    def check(answer: str) -> str:
        lines = [line for line in map(str.strip, answer.splitlines()) if line and not line.startswith("```")]
        if len(lines) != 1:
            return f"expected one line of code, not {len(lines)}"
        return "" if _shape(lines[0].strip("`")) in known else f"expected what {accepted[0]!r} means"

    return check


def tool_call(message: AssistantMessage, name: str, arguments: Mapping[str, Any]) -> str:
    """Exactly this one call, its arguments compared as JSON values."""
    if len(message.tool_calls) != 1:
        return f"expected one call of {name}, not {len(message.tool_calls)}"
    (call,) = message.tool_calls
    if call.name != name:
        return f"expected a call of {name}"
    try:
        given = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return "the call's arguments are no JSON"
    return "" if same(given, dict(arguments)) else f"expected the arguments {json.dumps(dict(arguments))}"


def same(value: Any, expected: Any) -> bool:
    """As JSON tells values apart: true is not 1, "5" is not 5."""
    return _canonical(value) == _canonical(expected)


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return ""


def _shape(line: str) -> str | None:
    """A line's syntax tree as text; None where it is no Python, or too long to look at."""
    if len(line) > _LONGEST_LINE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is the model's, and not for stderr
            return ast.dump(ast.parse(line))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
