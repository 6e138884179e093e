"""What was answered, line by line in a file: a triage that was cut off goes on where it was."""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from pydantic import TypeAdapter, ValidationError

from agent.triage.asking import Asked
from agent.triage.backlog import BacklogIssue
from agent.types import Frozen
from worker.errors import SettingsError
from worker.stages.forge import BacklogPage

FORMAT: Final = "devstral-fix-triage-1"


class Kept(Protocol):
    """Safe for threads."""

    def answer(self, issue: BacklogIssue) -> Asked | None:
        """What was answered to this issue as it reads now."""

    def keep(self, issue: BacklogIssue, asked: Asked) -> None:
        """Returns once it can't be lost any more."""


class _Head(Frozen):
    """Answers are good for the same questions to the same model."""

    format: Literal["devstral-fix-triage-1"] = FORMAT
    repository: str
    model: str
    prompt: str


class _Line(Frozen):
    issue: str
    asked: Asked


class Listed(Frozen):
    """A page of a repository's issues. `of`: which of them were asked for."""

    of: str
    page: int
    at: datetime
    listed: BacklogPage


_LINES: TypeAdapter[_Line | Listed] = TypeAdapter(_Line | Listed)


def digest(issue: BacklogIssue) -> str:
    """Of what a question shows of the issue. Comments and changes of labels don't ask it anew."""
    return hashlib.sha256(f"{issue.number}\0{issue.title}\0{issue.body}".encode(errors="replace")).hexdigest()


class Forgetful:
    """Keeps nothing beyond the process."""

    def answer(self, issue: BacklogIssue) -> None:
        """There is none."""

    def keep(self, issue: BacklogIssue, asked: Asked) -> None:
        """Nowhere."""


class Notebook:
    """A Kept in a file. A last line that was cut off in the writing counts as never written."""

    def __init__(self, path: Path, *, repository: str, model: str, prompt: str) -> None:
        """SettingsError: the file is of something else, or can't be written."""
        self._path = path
        self._lock = threading.Lock()
        self._answers: dict[str, Asked] = {}
        self.listed: list[Listed] = []
        head = _Head(repository=repository, model=model, prompt=prompt)
        try:
            text = path.read_bytes() if path.exists() else b""
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            whole = text[: text.rfind(b"\n") + 1]
            os.ftruncate(self._file, len(whole))
        except OSError as error:
            raise SettingsError(f"{path} can't be used: {error.strerror}") from error
        try:
            self._read(whole, head)
        except SettingsError:
            self.close()
            raise
        if not whole:
            self._write(head)

    def answer(self, issue: BacklogIssue) -> Asked | None:
        return self._answers.get(digest(issue))

    def keep(self, issue: BacklogIssue, asked: Asked) -> None:
        with self._lock:
            self._write(_Line(issue=digest(issue), asked=asked))

    def keep_page(self, listed: Listed) -> None:
        with self._lock:
            self._write(listed)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, whole: bytes, head: _Head) -> None:
        for place, line in enumerate(whole.splitlines(), start=1):
            try:
                if place > 1:
                    self._take(_LINES.validate_json(line))
                    continue
                began = _Head.model_validate_json(line)
            except ValidationError as error:
                raise SettingsError(f"{self._path}, line {place}: not of a triage") from error
            differs = [
                name for name in ("repository", "model", "prompt") if getattr(began, name) != getattr(head, name)
            ]
            if differs:
                raise SettingsError(f"{self._path} was begun with another {' and '.join(differs)}: name another file")

    def _take(self, line: _Line | Listed) -> None:
        if isinstance(line, _Line):
            self._answers[line.issue] = line.asked
        else:
            self.listed = [*self.listed, line] if line.page > 1 else [line]

    def _write(self, line: _Head | _Line | Listed) -> None:
        data = memoryview(line.model_dump_json().encode() + b"\n")
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
