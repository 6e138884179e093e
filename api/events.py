"""Which events ask something of the service, and what. Payload in, request out; no I/O.

Entitlement is not decided here: whoever handles the request asks GitHub about the sender and reads the issue again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from api import payload as read
from api.payload import BODY_CHARS, TITLE_CHARS, Ignored, Malformed
from worker.runs.asked import (
    Asked,
    ChecksRequest,
    CommandRequest,
    Ending,
    IssueRequest,
    PullRequestEvent,
    Removal,
    RemovedRequest,
    ReviewRequest,
    StopRequest,
)
from worker.runs.commands import Verb, command
from worker.runs.pull_requests import BRANCHES

OURS = "<!-- devstral-fix:"  # what everything that we write begins with

Payload = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What people call the service by. `mention`: without @; None: by no name."""

    trigger_label: str
    mention: str | None = None


def request_of(event: str, action: str | None, payload: Payload, names: Names) -> Asked:
    """What it asks for. Ignored where that is nothing, Malformed where a field that is needed can't be read."""
    handler = _HANDLERS.get((event, action))
    if handler is None:
        raise Ignored(f"{event if action is None else f'{event}.{action}'} is not handled")
    return handler(payload, names)


def _issue_labeled(payload: Payload, names: Names) -> IssueRequest:
    label = _trigger(payload, names)
    if read.get(payload, "issue", "pull_request") is not None:
        raise Ignored("the label is on a pull request")
    sender, sender_type = _person(payload, "bots never trigger")
    return IssueRequest(
        **_issue(payload),
        sender=sender,
        sender_type=sender_type,
        sender_id=_sender_id(payload),
        label=label,
        asked_at=read.moment(payload, "issue", "updated_at"),
        discussed=read.get(payload, "issue", "comments") not in (0, None),
    )


def _ended(ending: Ending) -> Callable[[Payload, Names], StopRequest]:
    """Of any issue: whether a run is under way for it is for the store to say."""

    def stop(payload: Payload, names: Names) -> StopRequest:
        label = _trigger(payload, names) if ending == "unlabeled" else names.trigger_label
        if read.get(payload, "issue", "pull_request") is not None:
            raise Ignored("this is a pull request")
        sender, sender_type = _sender(payload)
        if ending == "unlabeled" and _is_bot(sender, sender_type):
            raise Ignored(f"bots stop nothing by taking the label off ({sender})")
        return StopRequest(
            repository=read.repository(payload, "repository", "full_name"),
            installation_id=read.installation(payload),
            issue_number=read.number(payload, "issue", "number"),
            ending=ending,
            sender=sender,
            sender_type=sender_type,
            sender_id=_sender_id(payload),
            label=label,
        )

    return stop


def _comment_created(payload: Payload, names: Names) -> CommandRequest:
    """At issues and pull requests alike. A comment that is edited gives no command: who edits it need not be its
    author."""
    body = read.text(payload, "comment", "body", absent="")
    if OURS in body:
        raise Ignored("the comment is our own")
    on_pull_request = read.get(payload, "issue", "pull_request") is not None
    # Whoever talks to the service about a pull request says what is to change.
    otherwise = Verb.REVISE if on_pull_request else Verb.UNKNOWN
    said = command(body, mention=names.mention, otherwise=otherwise)
    if said is None:
        raise Ignored("the comment gives no command")
    if said.verb in (Verb.UNKNOWN, Verb.REVISE, Verb.EXPLAIN) and not said.text:
        raise Ignored("the comment says nothing besides our name")
    sender, sender_type = _person(payload, "bots give no commands")
    author = read.get(payload, "comment", "user", "login")
    if author is not None and author != sender:
        raise Ignored("the comment is not its sender's own")
    return CommandRequest(
        **_issue(payload),
        sender=sender,
        sender_type=sender_type,
        sender_id=_sender_id(payload),
        label=names.trigger_label,
        verb=said.verb,
        words=said.text,
        comment_id=read.number(payload, "comment", "id"),
        on_pull_request=on_pull_request,
        asked_at=read.moment(payload, "comment", "created_at"),
    )


def _pull_request(payload: Payload, _names: Names) -> PullRequestEvent:
    branch = _branch_of_ours(payload)
    sender, sender_type = _sender(payload)
    merged = read.get(payload, "pull_request", "merged") is True
    return PullRequestEvent(
        repository=read.repository(payload, "repository", "full_name"),
        installation_id=read.installation(payload),
        issue_number=read.number(payload, "pull_request", "number"),
        sender=sender,
        sender_type=sender_type,
        sender_id=_sender_id(payload),
        action=payload["action"],
        branch=branch,
        head=read.commit(payload, "pull_request", "head", "sha"),
        merged=merged,
        merge_commit=read.commit(payload, "pull_request", "merge_commit_sha") if merged else None,
        draft=read.get(payload, "pull_request", "draft") is True,
        at=read.moment(payload, "pull_request", "updated_at"),
    )


def _review(payload: Payload, _names: Names) -> ReviewRequest:
    branch = _branch_of_ours(payload)
    body = read.text(payload, "review", "body", absent="")
    if OURS in body:
        raise Ignored("the review is our own")
    sender, sender_type = _person(payload, "bots ask for no changes")
    state = read.text(payload, "review", "state").lower()
    if state not in ("approved", "changes_requested", "commented"):
        raise Ignored(f"a review that is {state[:40]}")
    return ReviewRequest(
        repository=read.repository(payload, "repository", "full_name"),
        installation_id=read.installation(payload),
        issue_number=read.number(payload, "pull_request", "number"),
        sender=sender,
        sender_type=sender_type,
        sender_id=_sender_id(payload),
        review_id=read.number(payload, "review", "id"),
        state=state,
        branch=branch,
    )


def _branch_of_ours(payload: Payload) -> str:
    repository = read.repository(payload, "repository", "full_name")
    branch = read.text(payload, "pull_request", "head", "ref", limit=300)
    # Null where the fork was deleted; a fork's branch may be called like ours, and is not.
    lives_in = read.get(payload, "pull_request", "head", "repo", "full_name")
    if not branch.startswith(BRANCHES) or not isinstance(lives_in, str) or lives_in.lower() != repository.lower():
        raise Ignored("the pull request is not from a branch of ours")
    return branch


def _checks_completed(payload: Payload, _names: Names) -> ChecksRequest:
    branch = read.get(payload, "check_suite", "head_branch")
    if not isinstance(branch, str) or not branch.startswith(BRANCHES):
        raise Ignored("the checks are not of a branch of ours")
    if read.get(payload, "check_suite", "conclusion") not in ("failure", "timed_out"):
        raise Ignored("the checks did not fail")
    sender, sender_type = _sender(payload)
    return ChecksRequest(
        repository=read.repository(payload, "repository", "full_name"),
        installation_id=read.installation(payload),
        suite_id=read.number(payload, "check_suite", "id"),
        branch=read.text(payload, "check_suite", "head_branch", limit=300),
        head=read.commit(payload, "check_suite", "head_sha"),
        sender=sender,
        sender_type=sender_type,
    )


def _installation_gone(removal: Removal) -> Callable[[Payload, Names], RemovedRequest]:
    def gone(payload: Payload, _names: Names) -> RemovedRequest:
        sender, sender_type = _sender(payload)
        installation = read.number(payload, "installation", "id")
        return RemovedRequest(installation_id=installation, removal=removal, sender=sender, sender_type=sender_type)

    return gone


def _repositories_removed(payload: Payload, _names: Names) -> RemovedRequest:
    removed = payload.get("repositories_removed")
    named = [one for one in removed if isinstance(one, Mapping)] if isinstance(removed, list) else []
    if not named:
        raise Ignored("no repository was removed")
    sender, sender_type = _sender(payload)
    return RemovedRequest(
        installation_id=read.number(payload, "installation", "id"),
        repositories=tuple(read.repository(one, "full_name") for one in named),
        removal="removed",
        sender=sender,
        sender_type=sender_type,
    )


def _repository_gone(removal: Removal) -> Callable[[Payload, Names], RemovedRequest]:
    def gone(payload: Payload, _names: Names) -> RemovedRequest:
        sender, sender_type = _sender(payload)
        return RemovedRequest(
            repository=_before(payload, removal),
            installation_id=read.installation(payload),
            repositories=(_before(payload, removal),),
            removal=removal,
            sender=sender,
            sender_type=sender_type,
        )

    return gone


def _before(payload: Payload, removal: Removal) -> str:
    """The name under which we knew a repository."""
    now = read.repository(payload, "repository", "full_name")
    owner, _, name = now.partition("/")
    if removal == "renamed":
        name = read.text(payload, "changes", "repository", "name", "from", limit=100)
    elif removal == "transferred":
        known = [read.get(payload, "changes", "owner", "from", kind, "login") for kind in ("user", "organization")]
        owner = next((login for login in known if isinstance(login, str)), owner)
    return read.repository({"full_name": f"{owner}/{name}"}, "full_name")


def _issue(payload: Payload) -> dict[str, Any]:
    return {
        "repository": read.repository(payload, "repository", "full_name"),
        "installation_id": read.installation(payload),
        "issue_number": read.number(payload, "issue", "number"),
        "title": read.cut(read.text(payload, "issue", "title"), TITLE_CHARS),
        "body": read.cut(read.text(payload, "issue", "body", absent=""), BODY_CHARS),
        "issue_url": read.text(payload, "issue", "html_url", limit=1_000),
    }


def _trigger(payload: Payload, names: Names) -> str:
    label = read.get(payload, "label", "name")
    if not isinstance(label, str) or label.strip().casefold() != names.trigger_label.strip().casefold():
        raise Ignored("another label")
    return read.clean(label)


def _sender(payload: Payload) -> tuple[str, str]:
    return read.text(payload, "sender", "login", limit=100), read.text(payload, "sender", "type", limit=100)


def _sender_id(payload: Payload) -> int | None:
    found = read.get(payload, "sender", "id")
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 2**63 else None


def _person(payload: Payload, otherwise: str) -> tuple[str, str]:
    sender, sender_type = _sender(payload)
    if _is_bot(sender, sender_type):
        raise Ignored(f"{otherwise} ({sender})")
    return sender, sender_type


def _is_bot(sender: str, sender_type: str) -> bool:
    return sender_type.casefold() == "bot" or sender.casefold().endswith("[bot]")


# (event, action) -> what it asks for; whatever isn't here is ignored.
_HANDLERS: Mapping[tuple[str, str | None], Callable[[Payload, Names], Asked]] = {
    ("issues", "labeled"): _issue_labeled,
    **{("issues", ending): _ended(ending) for ending in get_args(Ending) if ending != "asked"},
    ("issue_comment", "created"): _comment_created,
    **{
        ("pull_request", action): _pull_request
        for action in get_args(PullRequestEvent.model_fields["action"].annotation)
    },
    ("installation", "deleted"): _installation_gone("uninstalled"),
    ("installation", "suspend"): _installation_gone("suspended"),
    ("installation_repositories", "removed"): _repositories_removed,
    ("pull_request_review", "submitted"): _review,
    ("check_suite", "completed"): _checks_completed,
    **{
        ("repository", removal): _repository_gone(removal)
        for removal in ("archived", "deleted", "renamed", "transferred")
    },
}

__all__ = ["Ignored", "Malformed", "Names", "request_of"]
