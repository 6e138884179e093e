"""What a model says of one issue: the form that it is asked to fill in, and what of its answer can be believed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from agent.types import Frozen, ToolSpec

MOST_FILES, MOST_MISSING = 10, 6
_WORDS = 600  # characters of a reason that are kept


class Kind(StrEnum):
    BUG = "bug"
    FEATURE = "feature"
    QUESTION = "question"
    DOCS = "docs"
    DUPLICATE = "duplicate"
    STALE = "stale"
    ALREADY_FIXED = "already_fixed"


class Difficulty(StrEnum):
    TRIVIAL = "trivial"
    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"


class Risk(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Assessment(Frozen):
    """`files` are suspected ones that exist; `dropped` says what was left out of the model's answer, and why."""

    kind: Kind
    solvable: bool
    difficulty: Difficulty
    risk: Risk
    reason: str
    missing: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    duplicate_of: int | None = None
    dropped: tuple[str, ...] = ()


class BadAnswer(ValueError):
    """An answer that does not fill in the form; the message tells a model what is wrong with it."""


class _Form(Frozen):
    """The answer as it is written. Text and lists may be longer than asked for: they are cut, not refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Kind = Field(description="what the issue is")
    duplicate_of: int | None = Field(
        default=None, description="for kind duplicate: the number of the other issue, one of those listed as similar"
    )
    solvable: bool = Field(
        description="whether a programmer with the repository and a sandbox without network, and nobody to ask, could "
        "resolve it with a change that tests can prove"
    )
    reason: str = Field(description="one or two sentences: why solvable, or why not")
    missing: list[str] = Field(default_factory=list, description="what the issue does not say and a fix would need")
    files: list[str] = Field(default_factory=list, description="paths that a fix would probably change")
    difficulty: Difficulty = Field(description="trivial: one line; easy: one file; medium: several; hard: a design")
    risk: Risk = Field(description="how much could break for users if the change is wrong")


def _schema() -> dict[str, Any]:
    """Of the form, without references and titles: some servers' grammars know neither."""
    properties: dict[str, Any] = {}
    for name, field in _Form.model_fields.items():
        kind: dict[str, Any] = {"type": "string"}
        if isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum):
            kind["enum"] = [member.value for member in field.annotation]
        elif field.annotation is bool:
            kind = {"type": "boolean"}
        elif name == "duplicate_of":
            kind = {"type": ["integer", "null"]}
        elif name in ("files", "missing"):
            kind = {"type": "array", "items": {"type": "string"}}
        properties[name] = {**kind, "description": field.description}
    required = [name for name, field in _Form.model_fields.items() if field.is_required()]
    return {"type": "object", "properties": properties, "required": required}


ASSESS = ToolSpec(
    name="assess", description="Say what this issue is and whether it can be resolved.", parameters=_schema()
)


def read(
    arguments: str | Mapping[str, Any], *, number: int, others: Collection[int], files: Collection[str] | None
) -> Assessment:
    """The assessment of issue `number`. `others`: the numbers that a duplicate may name; `files`: the paths of the
    repository, None where they are not known (then none is believed). Raises BadAnswer."""
    form = _form(arguments)
    dropped: list[str] = []
    kind, duplicate_of = form.kind, form.duplicate_of
    if kind is Kind.DUPLICATE and duplicate_of is None:
        raise BadAnswer("kind is duplicate, but duplicate_of names no issue")
    if duplicate_of == number:
        raise BadAnswer(f"duplicate_of is {number}, which is this issue itself")
    if duplicate_of is not None and duplicate_of not in others:
        if kind is Kind.DUPLICATE:
            raise BadAnswer(f"duplicate_of is {duplicate_of}, which is none of the issues listed as similar")
        dropped.append(f"duplicate of #{duplicate_of}, which is no open issue that looks similar")
        duplicate_of = None
    found, unknown = _files(form.files, files)
    if unknown:
        dropped.append(f"{unknown} {'path' if unknown == 1 else 'paths'} that the repository does not have")
    return Assessment(
        kind=kind,
        # A duplicate is resolved with its original, and what needs no change has none to make.
        solvable=form.solvable and kind in (Kind.BUG, Kind.FEATURE, Kind.DOCS),
        difficulty=form.difficulty,
        risk=form.risk,
        reason=_short(form.reason),
        missing=tuple(filter(None, map(_short, form.missing)))[:MOST_MISSING],
        files=found[:MOST_FILES],
        duplicate_of=duplicate_of if kind is Kind.DUPLICATE else None,
        dropped=tuple(dropped),
    )


def _form(arguments: str | Mapping[str, Any]) -> _Form:
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the arguments are no JSON ({error})"[:200]) from error
    if not isinstance(value, Mapping):
        raise BadAnswer("the arguments are no JSON object")
    try:
        return _Form.model_validate(value)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise BadAnswer("; ".join(wrong)[:600]) from error


def _files(named: list[str], known: Collection[str] | None) -> tuple[tuple[str, ...], int]:
    """Those of `named` that exist, once each, and how many don't."""
    found: dict[str, None] = {}
    unknown = 0
    for name in named[: 10 * MOST_FILES]:
        path = name.strip().strip("`").removeprefix("./").removeprefix("/workspace/")
        if known is not None and path in known:
            found.setdefault(path)
        else:
            unknown += 1
    return tuple(found), unknown


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "\u2026"
