"""What a webhook can ask of the service, as it is stored with its delivery until it is handled. Plain values.

Texts are as they were when it was asked: what is edited later reaches no run.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Discriminator, Field, Tag, TypeAdapter

from agent.types import Frozen
from worker.runs.commands import Verb

_REPOSITORY = r"^[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}$"
Repository = Annotated[str, Field(pattern=_REPOSITORY)]


def is_repository(text: str) -> bool:
    """Whether it is OWNER/REPO; that there is one is another question."""
    return re.fullmatch(_REPOSITORY, text, re.ASCII) is not None


class _OfAnIssue(Frozen):
    """`issue_number`: of the issue or pull request it happened at; GitHub counts both together."""

    repository: Repository
    installation_id: int | None
    issue_number: int = Field(gt=0)
    sender: str
    sender_type: str
    sender_id: int | None = None  #: GitHub's, by which an account keeps its name in commits


class IssueRequest(_OfAnIssue):
    """Someone asked for an issue to be worked on; title and body are as they were at that moment."""

    kind: Literal["start"] = "start"
    title: str
    body: str
    issue_url: str
    label: str
    batch_id: UUID | None = None
    asked_at: datetime | None = None  #: what was written at the issue until then is part of it; unknown: nothing is
    discussed: bool = False  #: whether it has comments
    comment_id: int | None = None  #: of the comment that asked
    words: str = ""  #: what was said with it


Ending = Literal["closed", "unlabeled", "deleted", "transferred", "locked", "asked"]


class StopRequest(_OfAnIssue):
    """Something happened to an issue after which nobody wants it worked on. GitHub let the sender do it, which is proof
    of their right to; whether it is still so is asked again. `label` is the trigger label."""

    kind: Literal["stop"] = "stop"
    ending: Ending
    label: str


class CommandRequest(_OfAnIssue):
    """A comment that gives a command. At an issue or a pull request; whose pull request is for the store to say."""

    kind: Literal["command"] = "command"
    verb: Verb
    words: str
    comment_id: int
    on_pull_request: bool
    title: str
    body: str
    issue_url: str
    label: str
    asked_at: datetime | None = None
    discussed: bool = True

    def to_start(self) -> IssueRequest:
        """The same wish as a label's."""
        same = self.model_dump(exclude={"kind", "verb", "on_pull_request"})
        return IssueRequest(**same)

    def to_stop(self) -> StopRequest:
        same = self.model_dump(include={*_OfAnIssue.model_fields, "label"})
        return StopRequest(**same, ending="asked")


Removal = Literal["uninstalled", "suspended", "removed", "archived", "deleted", "renamed", "transferred"]


class RemovedRequest(Frozen):
    """Repositories that are no longer ours to touch. Without `repositories`, all of the installation."""

    kind: Literal["removed"] = "removed"
    repository: Repository | None = None
    installation_id: int | None
    issue_number: None = None
    repositories: tuple[Repository, ...] | None = None
    removal: Removal
    sender: str
    sender_type: str


class PullRequestEvent(_OfAnIssue):
    """Something happened to a pull request from a branch of ours. `head`: the commit its branch is at."""

    kind: Literal["pull_request"] = "pull_request"
    action: Literal["closed", "reopened", "synchronize", "converted_to_draft", "ready_for_review"]
    branch: str
    head: str
    merged: bool = False
    merge_commit: str | None = None
    draft: bool = False
    at: datetime | None = None


class ReviewRequest(_OfAnIssue):
    """A review of a pull request from a branch of ours was handed in. Its comments are GitHub's to tell."""

    kind: Literal["review"] = "review"
    review_id: int
    state: Literal["approved", "changes_requested", "commented"]
    branch: str


class ChecksRequest(Frozen):
    """Checks of continuous integration have failed on a commit of a branch of ours."""

    kind: Literal["checks"] = "checks"
    repository: Repository
    installation_id: int | None
    issue_number: None = None
    suite_id: int
    branch: str
    head: str
    sender: str
    sender_type: str
    sender_id: int | None = None


class WaitingRequest(_OfAnIssue):
    """Of our own making, at the end of a run: remarks came meanwhile, and are to be seen to now."""

    kind: Literal["waiting"] = "waiting"


Asked = (
    IssueRequest
    | StopRequest
    | CommandRequest
    | RemovedRequest
    | PullRequestEvent
    | ReviewRequest
    | WaitingRequest
    | ChecksRequest
)


def _kind(value: Any) -> str:
    """Requests that were stored before there were two kinds name none."""
    return str(value.get("kind", "start") if isinstance(value, dict) else value.kind)


_ASKED: TypeAdapter[Asked] = TypeAdapter(
    Annotated[
        Annotated[IssueRequest, Tag("start")]
        | Annotated[StopRequest, Tag("stop")]
        | Annotated[CommandRequest, Tag("command")]
        | Annotated[RemovedRequest, Tag("removed")]
        | Annotated[PullRequestEvent, Tag("pull_request")]
        | Annotated[ReviewRequest, Tag("review")]
        | Annotated[WaitingRequest, Tag("waiting")]
        | Annotated[ChecksRequest, Tag("checks")],
        Discriminator(_kind),
    ]
)


def stored_request(value: dict[str, Any]) -> Asked:
    return _ASKED.validate_python(value)
