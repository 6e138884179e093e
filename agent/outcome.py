"""What comes of a run: its patch, the evidence for it, and what both mean for people."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import Field

from agent.reports.cases import Case
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


Stage = Literal["before", "before_with_new_tests", "before_again", "after", "after_again"]


class Execution(Frozen):
    """One execution of `command` in a fresh sandbox. `cases`: how each test ended, by its id; None where the runner
    did not tell, and `note` says why."""

    command: str
    outcome: TestOutcome
    returncode: int | None
    seconds: float
    output: str
    note: str = ""
    cases: Mapping[str, Case] | None = None


class Named(Frozen):
    """Tests, of which the first few are named."""

    total: int
    some: tuple[str, ...]


class Detail(Frozen):
    """What else there is to say about one execution."""

    note: str = Field(default="", description="why the outcomes of its tests are not known, or not believed")
    kept: bool = Field(default=False, description="executed for an earlier run of the same commit, and kept")
    held_back: tuple[str, ...] = Field(
        default=(), description="paths that the change touches and that were as on the base here"
    )
    noticed: tuple[str, ...] = Field(default=(), description="what the change does to tests, by `agent.noticed`")
    tests: Mapping[str, Named] = Field(default={}, description="by the names of `agent.comparison.Comparison`")


class Evidence(Frozen):
    """One execution for one run; `stage` says on which tree. `counts`: tests by outcome, empty where not known."""

    stage: Stage
    tree: str
    command: str
    outcome: TestOutcome
    returncode: int | None
    seconds: float
    output: str
    counts: Mapping[Case, int] = {}
    detail: Detail = Detail()


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
