"""What comes of a run: its patch, the evidence for it, and what both mean for people."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from agent.types import Frozen


class FileChange(Frozen):
    """One entry of a patch. Modes are git's (100644, 100755, 120000 symlink, 160000 gitlink); 000000 = absent."""

    path: str
    utf8: bool = Field(default=True, description="False: the name is not UTF-8, and `path` shows its bytes as \\xNN")
    status: Literal["A", "M", "D", "T"]
    old_mode: str
    new_mode: str
    added: int | None = Field(default=None, description="lines; None for a binary file")
    removed: int | None = None


class Patch(Frozen):
    """A unified diff (git format, binary-safe) of `tree` against `base_commit`."""

    base_commit: str
    tree: str
    diff: str
    files: tuple[FileChange, ...]

    @property
    def empty(self) -> bool:
        return not self.files


class TestOutcome(StrEnum):
    """How one execution of the repository's test command ended."""

    __test__ = False  # not a pytest class

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"  # it could not be judged: not found, timeout, out of memory
    NOT_RUN = "not_run"


class Evidence(Frozen):
    """One execution of `command` in a fresh sandbox; `stage` says on which tree."""

    stage: Literal["before", "before_with_new_tests", "after"]
    tree: str
    command: str
    outcome: TestOutcome
    returncode: int | None
    seconds: float
    output: str


class Outcome(StrEnum):
    """What the run means for people."""

    FIXED = "fixed"
    PARTIAL = "partial"
    QUESTION = "question"
    NOT_REPRODUCIBLE = "not_reproducible"
    ALREADY_FIXED = "already_fixed"
    DUPLICATE = "duplicate"
    ANSWERED = "answered"
    REFUSED = "refused"
    SETUP_FAILED = "setup_failed"
    UNSOLVED = "unsolved"
    TRIAGED = "triaged"
