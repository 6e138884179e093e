"""The trajectory as a file: one JSON line for each thing as it happens, readable also after a crash in mid-line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError

from agent.loop import Agent
from agent.outcome import Patch
from agent.prompts import prompt_hash
from agent.protocols import Isolation
from agent.types import AgentResult, Frozen, Limits, Price, Sampling, Step, Task, ToolSpec, Usage

FORMAT: Literal["devstral-fix-1"] = "devstral-fix-1"


class TrajectoryError(ValueError):
    """A file is not a trajectory of a format that is known here."""


class Header(Frozen):
    """What the trajectory started from, enough to replay it: the prompt is kept as it was sent."""

    type: Literal["header"] = "header"
    format: Literal["devstral-fix-1"] = FORMAT
    task: Task
    model: str
    tokenizer: str
    isolation: Isolation
    prompt_hash: str
    system: str
    prompt: str
    tools: tuple[ToolSpec, ...]
    limits: Limits
    price: Price
    sampling: Sampling


class SpendLine(Frozen):
    type: Literal["spend"] = "spend"
    call: int
    usage: Usage
    usd: float
    seconds: float


class StepLine(Frozen):
    type: Literal["step"] = "step"
    step: Step


class EndLine(Frozen):
    """The one line without which a trajectory is unfinished. `patch` is absent where none could be taken."""

    type: Literal["end"] = "end"
    result: AgentResult
    patch: Patch | None = None


class Trajectory(Frozen):
    """What a file holds. `torn`: its last line was cut off by a crash and is left out."""

    header: Header
    spends: tuple[SpendLine, ...]
    steps: tuple[Step, ...]
    end: EndLine | None
    torn: bool

    @property
    def usage(self) -> Usage:
        return sum((line.usage for line in self.spends), Usage())

    @property
    def usd(self) -> float:
        return sum(line.usd for line in self.spends)


Line = Header | SpendLine | StepLine | EndLine
_Line = TypeAdapter[Line](Annotated[Line, Field(discriminator="type")])


def header(agent: Agent, isolation: Isolation) -> Header:
    return Header(
        # The file list can be had again from the base commit; its map is in the prompt.
        task=agent.task.model_copy(update={"files": ()}),
        model=agent.model.label,
        tokenizer=agent.model.tokenizer,
        isolation=isolation,
        prompt_hash=prompt_hash(agent.specs),
        system=agent.system,
        prompt=agent.prompt,
        tools=agent.specs,
        limits=agent.meter.limits,
        price=agent.meter.price,
        sampling=agent.sampling,
    )


class JsonlJournal:
    """A Journal in a new file of its own. A line is on the disk when the call returns; one that lacks its line end
    was never written, so the end record is there completely or not at all."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def begin(self, start: Header) -> None:
        self._write(start)

    def checkpoint(self) -> None:
        """A file can't be taken over by another worker."""

    def reserve(self, call: int, prompt_tokens: int, max_tokens: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nobody else spends from the same budget."""
        return nullcontext()

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        self._write(SpendLine(call=call, usage=usage, usd=usd, seconds=seconds))

    def step(self, step: Step) -> None:
        self._write(StepLine(step=step))

    def end(self, result: AgentResult, patch: Patch | None = None) -> None:
        self._write(EndLine(result=result, patch=patch))

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: Line) -> None:
        data = memoryview(line.model_dump_json().encode() + b"\n")
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)


def load(path: Path) -> Trajectory:
    """Raises TrajectoryError, and OSError where the file can't be read."""
    *whole, rest = path.read_bytes().split(b"\n")
    lines = [_parsed(line, number, path) for number, line in enumerate(whole, start=1)]
    return _whole(lines, str(path), torn=bool(rest))


def from_values(values: Sequence[Any], name: str) -> Trajectory:
    """The same of lines that are JSON values already. Raises TrajectoryError."""
    lines = [_parsed(json.dumps(value).encode(), number, name) for number, value in enumerate(values, start=1)]
    return _whole(lines, name, torn=False)


def _whole(lines: Sequence[Line], name: str, *, torn: bool) -> Trajectory:
    if not lines or not isinstance(lines[0], Header):
        raise TrajectoryError(f"{name}: the first line is not the header of a {FORMAT} trajectory")
    ends = [line for line in lines if isinstance(line, EndLine)]
    return Trajectory(
        header=lines[0],
        spends=tuple(line for line in lines if isinstance(line, SpendLine)),
        steps=tuple(line.step for line in lines if isinstance(line, StepLine)),
        end=ends[-1] if ends else None,
        torn=torn,
    )


def _parsed(line: bytes, number: int, path: Path | str) -> Line:
    try:
        return _Line.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise TrajectoryError(f"{path}, line {number}: not a line of a {FORMAT} trajectory ({first})") from None
