"""Who may ask for what, and whether it may still be done: GitHub is asked, and any doubt refuses."""

from __future__ import annotations

from worker.errors import ForgeRefused
from worker.runs.asked import CommandRequest, IssueRequest, ReviewRequest, StopRequest
from worker.stages.forge import Forge, Issue, RepositoryInfo

ENTITLED = frozenset({"admin", "maintain", "write"})


class Refused(Exception):
    """This delivery becomes nothing. `tell`: the reason goes to the issue too, since its sender may mend it."""

    def __init__(self, reason: str, *, tell: bool = False) -> None:
        super().__init__(reason)
        self.tell = tell


def entitled(forge: Forge, request: IssueRequest | StopRequest | CommandRequest | ReviewRequest) -> None:
    """Only people who can write to the repository start, steer or stop runs."""
    if request.sender_type == "Bot":
        raise Refused("bots never trigger")
    permission = forge.permission(request.sender)
    if permission not in ENTITLED:
        raise Refused(f"{request.sender} has {permission} permission here; asking for this needs write")


def ended(forge: Forge, request: StopRequest) -> None:
    """What the event said has to be so now: an issue that was opened again, or a label that is back, stops nothing."""
    if request.ending == "asked":
        entitled(forge, request)
        return
    if request.ending == "unlabeled" and (
        request.sender_type == "Bot" or request.sender.casefold() == forge.login().casefold()
    ):
        raise Refused("bots stop nothing by taking the label off")
    try:
        issue = forge.issue(request.issue_number)
    except ForgeRefused:
        return  # deleted, transferred, or no longer ours to see
    there = {name.strip().casefold() for name in issue.labels}
    still = {
        "closed": issue.state == "open",
        "locked": not issue.locked,
        "unlabeled": request.label.strip().casefold() in there,
        "deleted": True,
        "transferred": True,
    }
    if still[request.ending]:
        raise Refused(f"the issue is no longer {request.ending}")


def touchable(repository: RepositoryInfo, issue: Issue) -> None:
    """What may have changed since the event: state, lock, archive; and a pull request is no issue."""
    if repository.archived or repository.disabled:
        raise Refused("the repository is archived or disabled")
    if issue.is_pull_request:
        raise Refused("this is a pull request, not an issue")
    if issue.state != "open":
        raise Refused("the issue is closed")
    if issue.locked:
        raise Refused("the issue is locked")
