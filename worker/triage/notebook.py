"""What was answered, line by line in a file: a triage that was cut off goes on where it was."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from pydantic import ValidationError

from agent.triage.asking import Asked
from agent.triage.backlog import BacklogIssue
from agent.types import Frozen
from worker.errors import SettingsError

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
                    kept = _Line.model_validate_json(line)
                    self._answers[kept.issue] = kept.asked
                    continue
                began = _Head.model_validate_json(line)
            except ValidationError as error:
                raise SettingsError(f"{self._path}, line {place}: not of a triage") from error
            differs = [
                name for name in ("repository", "model", "prompt") if getattr(began, name) != getattr(head, name)
            ]
            if differs:
                raise SettingsError(f"{self._path} was begun with another {' and '.join(differs)}: name another file")

    def _write(self, line: _Head | _Line) -> None:
        data = memoryview(line.model_dump_json().encode() + b"\n")
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
