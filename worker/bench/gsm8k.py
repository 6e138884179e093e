r"""Files of GSM8K's format, prompts with worked examples, and scores of answers: nothing here asks a model.

A line is {"question": "…", "answer": "…\n#### 18"}. Prompt and rules follow SGLang's benchmark of that name: worked
examples as plain text, the last number counts, commas removed. What differs: decimals and signs are understood (18.00
is 18), the prompt is a user message of a conversation, and the examples, which SGLang scores, too, are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from worker.errors import SettingsError
from worker.numbers import numbers

SHOTS = 8  # of a file's first problems are the examples, and are not scored

_LABEL = re.compile(r"####\s*(-?[0-9][0-9,]*(?:\.[0-9]+)?)\s*")


@dataclass(frozen=True)
class Problem:
    """`line`: its number in the file, from 1."""

    line: int
    question: str
    answer: str
    number: Decimal


@dataclass(frozen=True)
class Data:
    examples: tuple[Problem, ...]
    problems: tuple[Problem, ...]
    sha256: str  #: of the file


def read(path: Path) -> Data:
    """Raises SettingsError, with the line's number where one is malformed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from error
    found = []
    for at, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.strip():
            try:
                found.append(_problem(at, line))
            except ValueError as error:
                raise SettingsError(f"{path}, line {at}: {error}") from error
    if len(found) <= SHOTS:
        raise SettingsError(f"{path} has {len(found)} problems: the first {SHOTS} are the examples, one more is needed")
    return Data(tuple(found[:SHOTS]), tuple(found[SHOTS:]), hashlib.sha256(content).hexdigest())


def _problem(at: int, line: bytes) -> Problem:
    """ValueError says what is wrong with the line."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(entry, dict):
        raise ValueError('it is no JSON object with "question" and "answer"')  # noqa: TRY004  # of the file, not a type
    question, answer = (_text(entry, key) for key in ("question", "answer"))
    label = _LABEL.fullmatch(answer.rstrip().rpartition("\n")[2])
    if label is None:
        raise ValueError('the last line of its "answer" is not "#### NUMBER"')
    return Problem(at, question, answer, numbers(label[1])[-1])


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'its "{key}" is no text')
    return value


def prompt(examples: Sequence[Problem], problem: Problem) -> str:
    """The examples come first and are the same for all, so that a prefix cache reads them once."""
    shots = (f"Question: {each.question}\nAnswer: {each.answer}\n\n" for each in examples)
    return f"{''.join(shots)}Question: {problem.question}\nAnswer:"


def answered(text: str) -> Decimal | None:
    """The last number of an answer; None: it has none. What follows where a model goes on with a question of its own is
    not of the answer."""
    found = numbers(text.partition("\nQuestion:")[0])
    return found[-1] if found else None
