"""A recording: one agent's run on one task as it was written down, by our harness or by another one.

One shape for all of them, so that they can be shown, replayed and counted alike. What a format does not tell is None,
never 0. A step is one action that the agent asked for; usage and cost belong to the model calls, which are listed
apart and which steps point to, so that a call that asked for three actions is booked once.

As a file it is one JSON object whose `format` names the version; `dump` writes it and `agent.imports.read` takes it
back. A recording is a stranger's data: it is shown, compared, and executed only inside a sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal, TypeVar

from pydantic import Field

from agent.types import Frozen, Limits

FORMAT: Literal["devstral-fix-recording-1"] = "devstral-fix-recording-1"
_Number = TypeVar("_Number", int, float)


class Harness(StrEnum):
    """Who recorded it: what its tools are called and how their results read."""

    OURS = "devstral-fix"
    SWE_AGENT = "swe-agent"
    MINI_SWE_AGENT = "mini-swe-agent"
    OPENHANDS = "openhands"
    CALL_LOG = "devstral-call-log"


class Tokens(Frozen):
    """Tokens of a call or of a whole recording; `cached` is the part of `prompt` that came from a cache."""

    prompt: int | None = Field(default=None, ge=0)
    cached: int | None = Field(default=None, ge=0)
    completion: int | None = Field(default=None, ge=0)


class Call(Frozen):
    """One answer of the model. `usd` is what its harness booked for it."""

    id: str | None = None
    tokens: Tokens = Tokens()
    usd: float | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)


class Act(Frozen):
    """What was asked for, in the harness's own words. `problem`: why the harness could not take it as an action."""

    tool: str
    arguments: dict[str, Any] = Field(default={})
    problem: str | None = None


class Observed(Frozen):
    """What came back. `refused`: the harness's own checks turned the action down, so that it changed nothing."""

    text: str
    exit_code: int | None = None
    refused: bool = False


class Moment(Frozen):
    """One step: why, what, and what came of it. `observed` is None where the recording ends before the result, `call`
    is an index into the recording's calls, and `cwd` where a shell command ran (None: the workspace)."""

    index: int = Field(ge=0)
    thought: str = ""
    act: Act
    observed: Observed | None = None
    call: int | None = Field(default=None, ge=0)
    cwd: str | None = None


class Totals(Frozen):
    """Of the whole recording."""

    calls: int | None = Field(default=None, ge=0)
    tokens: Tokens = Tokens()
    usd: float | None = Field(default=None, ge=0)
    seconds: float | None = Field(default=None, ge=0)


class Recording(Frozen):
    """`purpose` is what the agent was to do: only a `fix` may ever be counted as a solved issue. `root` is where the
    workspace was, `patch` the run's own diff, and `notes` what an importer had to mend or leave out."""

    format: Literal["devstral-fix-recording-1"] = FORMAT
    harness: Harness
    version: str = Field(description="of the source format, as far as it can be told apart")
    purpose: Literal["fix", "test", "sample"] = "fix"
    task: str
    system: str = ""
    instance_id: str | None = None
    repository: str | None = None
    base_commit: str | None = None
    root: str = "/workspace"
    model: str | None = None
    prompt_hash: str | None = None
    limits: Limits | None = Field(default=None, description="that bounded its tools, where it is one of ours")
    steps: tuple[Moment, ...]
    calls: tuple[Call, ...] = ()
    totals: Totals = Totals()
    exit_status: str | None = None
    reason: str | None = None
    patch: str | None = None
    notes: tuple[str, ...] = ()


def dump(recording: Recording) -> str:
    """One JSON object, and a line end."""
    return recording.model_dump_json(indent=1) + "\n"


def total(calls: Iterable[Call], *, count: int | None = None, usd: float | None = None) -> Totals:
    """The sums over all calls: a sum of which one part is not known is not known. `count` and `usd` are the recording's
    own word, where it has one."""
    calls = tuple(calls)
    return Totals(
        calls=len(calls) if count is None and calls else count,
        tokens=Tokens(
            prompt=_sum(call.tokens.prompt for call in calls),
            cached=_sum(call.tokens.cached for call in calls),
            completion=_sum(call.tokens.completion for call in calls),
        ),
        usd=_sum(call.usd for call in calls) if usd is None else usd,
        seconds=_sum(call.seconds for call in calls),
    )


def _sum(parts: Iterable[_Number | None]) -> _Number | None:
    known = list(parts)
    numbers = [part for part in known if part is not None]
    return sum(numbers) if numbers and len(numbers) == len(known) else None
