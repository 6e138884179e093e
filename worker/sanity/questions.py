"""The questions, as data. The expected answers are not in the questions, so repeating one is no answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.types import ToolSpec
from worker.sanity.checks import Check, line_of_code, number, only_json, word

SYSTEM = "You are a careful assistant. Answer exactly as you are asked, and with nothing else."
LIMIT = 256  # completion tokens of a call: an answer that reaches them did not end
FILLED = 0.5  # of the model's window, in the question that hides a fact


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that is offered, the one call that is right, and what the model is told was its result."""

    spec: ToolSpec
    arguments: Mapping[str, Any]
    result: str = ""  #: empty: the question ends with the call
    forced: bool = False  #: the answer is held to the form of a call


@dataclass(frozen=True, kw_only=True)
class Question:
    """`turns`: what is said, one after the other; the answer to the last one is checked."""

    name: str
    turns: tuple[str, ...]
    check: Check | None = None
    tool: Tool | None = None
    hidden: str = ""  #: a fact in the middle of filler, said before the last turn in the same message
    most: int = LIMIT  #: completion tokens of an answer that is short enough


def _tool(name: str, description: str, **properties: str) -> ToolSpec:
    """Every property is needed; a property's value is its JSON type."""
    return ToolSpec(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {key: {"type": kind} for key, kind in properties.items()},
            "required": list(properties),
            "additionalProperties": False,
        },
    )


QUESTIONS = (
    Question(name="addition", turns=("What is 4817 + 2396? Answer with the number alone.",), check=number(7213)),
    Question(name="multiplication", turns=("What is 37 * 48? Answer with the number alone.",), check=number(1776)),
    Question(name="division", turns=("What is 9216 / 64? Answer with the number alone.",), check=number(144)),
    Question(
        name="word problem",
        turns=(
            "A depot gets 17 crates of 24 bottles each. 39 bottles are broken. How many are whole? The number alone.",
        ),
        check=number(369),
    ),
    Question(
        name="code repair",
        turns=(
            (
                "This Python function has to return the last item of a list, but raises IndexError:\n\n"
                "def last(items):\n    return items[len(items)]\n\n"
                "Answer with the repaired return line alone."
            ),
        ),
        check=line_of_code("return items[-1]", "return items[len(items) - 1]"),
    ),
    Question(
        name="forced tool call",
        turns=("Wake me at a quarter to seven in the morning.",),
        tool=Tool(
            spec=_tool("set_alarm", "Set an alarm, on a 24-hour clock.", hour="integer", minute="integer"),
            arguments={"hour": 6, "minute": 45},
            forced=True,
        ),
    ),
    Question(
        name="free tool call",
        turns=("Which value has max_runs in the file config/limits.toml? Answer with the number alone.",),
        tool=Tool(
            spec=_tool("read_file", "The text of a file of the project.", path="string"),
            arguments={"path": "config/limits.toml"},
            result="# limits of one worker\nmin_runs = 12\nmax_runs = 83\n",
        ),
        check=number(83),
    ),
    Question(
        name="memory",
        turns=(
            "The code of my locker is 5930. Answer with the word noted.",
            "Name a colour, in one word.",
            "What is the code of my locker? Answer with the number alone.",
        ),
        check=number(5930),
    ),
    Question(
        name="JSON only",
        turns=(
            (
                'Answer with one JSON object and nothing around it, no code fence either: "city" is the capital of '
                'France as a string, "legs" the number of legs of a spider.'
            ),
        ),
        check=only_json({"city": "Paris", "legs": 8}),
    ),
    Question(
        name="German and English",
        turns=("Übersetze das englische Wort butterfly ins Deutsche. One word only, please, keine Erklärung.",),
        check=word("Schmetterling"),
    ),
    Question(
        name="long context",
        turns=("What is the number of the harbour master's key? Answer with the number alone.",),
        hidden="The number of the harbour master's key is 71946.",
        check=number(71946),
    ),
    Question(
        name="stop",
        turns=("What is the opposite of hot? Answer with one word.",),
        check=word("cold"),
        most=12,
    ),
)

_WHO = ("The baker", "A sailor", "The teacher", "My neighbour", "The clerk", "A farmer", "The painter", "Her cousin")
_DID = ("carried", "sold", "found", "repaired", "borrowed", "counted", "painted", "forgot")
_WHAT = ("the blue boat", "a wooden chair", "two old lamps", "the garden gate", "a sack of flour", "the green coat")
_WHEN = ("before breakfast", "on a rainy Monday", "after the market", "late in autumn", "during the storm")
_SAMPLE = 64  # sentences that are measured


def haystack(hidden: str, tokens: int, count: Callable[[str], int]) -> str:
    """About so many tokens of sentences without a number, with `hidden` in their middle. `count`: tokens of a text."""
    source = random.Random(0)  # noqa: S311 - filler

    def sentence() -> str:
        return f"{source.choice(_WHO)} {source.choice(_DID)} {source.choice(_WHAT)} {source.choice(_WHEN)}."

    sample = [sentence() for _ in range(_SAMPLE)]
    wanted = max(2, int(tokens * _SAMPLE / max(1, count(" ".join(sample)))))
    sentences = [*sample, *(sentence() for _ in range(wanted - _SAMPLE))][:wanted]
    return " ".join([*sentences[: wanted // 2], hidden, *sentences[wanted // 2 :]])
