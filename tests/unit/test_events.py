"""Comments, pull requests and removals: what they ask for. Payloads are published examples, mutated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from api.webhooks import Received, Rejected
from tests.github_double import octokit_examples
from tests.unit.test_webhooks import LABEL, ignored, labeled, refused, send
from worker.runs.asked import (
    ChecksRequest,
    CommandRequest,
    PullRequestEvent,
    RemovedRequest,
    ReviewRequest,
    stored_request,
)
from worker.runs.commands import Verb


def commented(body: str = "/devstral fix", *, pull_request: bool = False, **changes: Any) -> dict[str, Any]:
    """A published `issue_comment.created` with a body of ours; none of them is at a pull request."""
    payload = copy.deepcopy(octokit_examples("issue_comment", "created")[0])
    payload["comment"]["body"] = body
    if pull_request:
        payload["issue"]["pull_request"] = {"url": "https://example.invalid"}
    return payload | changes


def pulled(action: str = "closed", **pull_request: Any) -> dict[str, Any]:
    """A published `pull_request.closed`, from a branch of ours."""
    payload = copy.deepcopy(octokit_examples("pull_request", "closed")[0])
    payload["action"] = action
    payload["pull_request"]["head"]["ref"] = "devstral/issue-7"
    payload["pull_request"] |= pull_request
    return payload


def given(payload: dict[str, Any]) -> CommandRequest:
    answer = send(payload, event="issue_comment")
    assert isinstance(answer, Received), answer
    assert isinstance(answer.request, CommandRequest), answer.ignored_reason
    return answer.request


def test_a_command_is_taken_with_the_issue_as_it_is_then() -> None:
    payload = commented("/devstral fix only the parser")
    request = given(payload)
    assert (request.verb, request.words) == (Verb.FIX, "only the parser")
    assert request.issue_number == payload["issue"]["number"]
    assert (request.title, request.body) == (payload["issue"]["title"], payload["issue"]["body"])
    assert (request.sender, request.comment_id) == (payload["sender"]["login"], payload["comment"]["id"])
    assert request.asked_at == datetime(2019, 5, 15, 15, 20, 21, tzinfo=UTC)
    assert not request.on_pull_request
    start = request.to_start()
    assert (start.words, start.label, start.comment_id) == ("only the parser", LABEL, request.comment_id)
    assert request.to_stop().ending == "asked"
    assert stored_request(request.model_dump(mode="json")) == request


def test_at_a_pull_request_it_is_the_same_event() -> None:
    request = given(commented("@devstral-fixer rename it", pull_request=True))
    assert (request.on_pull_request, request.verb, request.words) == (True, Verb.REVISE, "rename it")
    assert given(commented("@devstral-fixer rename it")).verb is Verb.UNKNOWN
    assert given(commented("/devstral rename it", pull_request=True)).verb is Verb.UNKNOWN


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (commented("Thanks!"), "gives no command"),
        (commented("@devstral-fixer"), "says nothing besides our name"),
        (commented("<!-- devstral-fix:status issue=1 -->\n/devstral fix"), "our own"),
        (commented(sender={"login": "x[bot]", "type": "User"}), "bots give no commands"),
        (commented(sender={"login": "x", "type": "Bot"}), "bots give no commands"),
        (commented(sender={"login": "other", "type": "User"}), "not its sender's own"),
        (commented(action="edited"), "issue_comment.edited is not handled"),
        (commented(action="deleted"), "issue_comment.deleted is not handled"),
    ],
)
def test_what_gives_no_command(payload: dict[str, Any], why: str) -> None:
    assert why in ignored(send(payload, event="issue_comment"))


def reviewed(**changes: Any) -> dict[str, Any]:
    """A published `pull_request_review.submitted`, of a branch of ours."""
    payload = copy.deepcopy(octokit_examples("pull_request_review", "submitted")[0])
    payload["pull_request"]["head"]["ref"] = "devstral/issue-7"
    return payload | changes


@pytest.mark.parametrize("state", ["approved", "changes_requested", "commented", "CHANGES_REQUESTED"])
def test_a_review_of_a_pull_request_of_ours(state: str) -> None:
    payload = reviewed()
    payload["review"]["state"] = state
    answer = send(payload, event="pull_request_review")
    assert isinstance(answer, Received)
    request = answer.request
    assert isinstance(request, ReviewRequest), answer.ignored_reason
    assert (request.review_id, request.state) == (payload["review"]["id"], state.lower())
    assert (request.issue_number, request.branch) == (payload["pull_request"]["number"], "devstral/issue-7")


def test_reviews_that_ask_nothing() -> None:
    for payload, why in (
        (reviewed(sender={"login": "x[bot]", "type": "Bot"}), "bots ask for no changes"),
        (octokit_examples("pull_request_review", "submitted")[0], "not from a branch of ours"),
        (reviewed(review=reviewed()["review"] | {"state": "pending"}), "a review that is pending"),
        (reviewed(review=reviewed()["review"] | {"body": "<!-- devstral-fix:run -->"}), "our own"),
        (reviewed(action="edited"), "is not handled"),
    ):
        assert why in ignored(send(payload, event="pull_request_review"))


@pytest.mark.parametrize("action", ["closed", "reopened", "synchronize", "converted_to_draft", "ready_for_review"])
def test_what_happens_to_a_pull_request_of_ours(action: str) -> None:
    payload = pulled(action)
    answer = send(payload, event="pull_request")
    assert isinstance(answer, Received)
    request = answer.request
    assert isinstance(request, PullRequestEvent), answer.ignored_reason
    assert (request.action, request.branch) == (action, "devstral/issue-7")
    assert request.head == payload["pull_request"]["head"]["sha"]
    assert not request.merged


def test_a_merge_names_its_commit() -> None:
    answer = send(pulled(merged=True, merge_commit_sha="a" * 40), event="pull_request")
    assert isinstance(answer, Received)
    assert isinstance(answer.request, PullRequestEvent)
    assert (answer.request.merged, answer.request.merge_commit) == (True, "a" * 40)
    assert refused(send(pulled(merged=True, merge_commit_sha=None), event="pull_request")) == 400


@pytest.mark.parametrize(
    "head",
    [
        {"ref": "main"},
        {"ref": "fork/devstral/issue-7"},
        {"repo": None},
        {"repo": {"full_name": "stranger/Hello-World"}},
    ],
)
def test_a_branch_that_only_looks_like_ours(head: dict[str, Any]) -> None:
    payload = pulled()
    payload["pull_request"]["head"] |= head
    assert "not from a branch of ours" in ignored(send(payload, event="pull_request"))


def checked(**suite: Any) -> dict[str, Any]:
    payload = copy.deepcopy(octokit_examples("check_suite", "completed")[0])
    payload["check_suite"] |= {"head_branch": "devstral/issue-7", "conclusion": "failure", **suite}
    return payload


def test_checks_that_failed_on_a_branch_of_ours() -> None:
    payload = checked()
    answer = send(payload, event="check_suite")
    assert isinstance(answer, Received)
    request = answer.request
    assert isinstance(request, ChecksRequest), answer.ignored_reason
    assert (request.branch, request.head) == ("devstral/issue-7", payload["check_suite"]["head_sha"])
    for suite in ({"conclusion": "success"}, {"conclusion": None}, {"head_branch": "main"}, {"head_branch": None}):
        assert ignored(send(checked(**suite), event="check_suite"))


def _removed(event: str, action: str, **changes: Any) -> RemovedRequest:
    payload = copy.deepcopy(octokit_examples(event, action)[0]) | changes
    answer = send(payload, event=event)
    assert isinstance(answer, Received)
    assert isinstance(answer.request, RemovedRequest), answer.ignored_reason
    return answer.request


def test_what_takes_repositories_away() -> None:
    assert _removed("installation", "deleted").repositories is None
    assert _removed("installation", "suspend").removal == "suspended"
    some = _removed("installation_repositories", "removed")
    assert some.repositories == ("octocat/Hello-World",)
    renamed = _removed("repository", "renamed", changes={"repository": {"name": {"from": "old"}}})
    assert renamed.repositories == ("Octocoders/old",)
    moved = _removed("repository", "transferred", changes={"owner": {"from": {"user": {"login": "before"}}}})
    assert moved.repositories == ("before/Hello-World",)
    for action in ("archived", "deleted"):  # of which no example is published
        payload = octokit_examples("repository", "publicized")[0] | {"action": action}
        answer = send(payload, event="repository")
        assert isinstance(answer, Received)
        assert isinstance(answer.request, RemovedRequest), answer.ignored_reason
        assert (answer.request.removal, answer.request.repositories) == (action, ("Codertocat/Hello-World",))
    assert stored_request(some.model_dump(mode="json")) == some


def test_nothing_was_removed() -> None:
    payload = octokit_examples("installation_repositories", "removed")[0] | {"repositories_removed": []}
    assert ignored(send(payload, event="installation_repositories")) == "no repository was removed"


def _paths(value: Any, depth: int, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and depth:
        for key, inner in value.items():
            yield (*path, key)
            yield from _paths(inner, depth - 1, (*path, key))


def _mutated(payload: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy along `path` with `value` at its end; Ellipsis takes the field away."""
    key, *rest = path
    inner = _mutated(payload[key], tuple(rest), value) if rest else value
    if inner is ...:
        return {k: v for k, v in payload.items() if k != key}
    return payload | {key: inner}


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("issues", labeled()),
        ("issues", labeled(action="unlabeled")),
        ("issue_comment", commented(pull_request=True)),
        ("pull_request", pulled(merged=True, merge_commit_sha="a" * 40)),
        ("pull_request_review", reviewed()),
        ("check_suite", checked()),
        ("installation", octokit_examples("installation", "deleted")[0]),
        ("installation_repositories", octokit_examples("installation_repositories", "removed")[0]),
        ("repository", octokit_examples("repository", "renamed")[0]),
        ("repository", octokit_examples("repository", "transferred")[0]),
    ],
    ids=lambda value: value if isinstance(value, str) else value["action"],
)
def test_whatever_a_field_holds_is_read_or_refused(event: str, payload: dict[str, Any]) -> None:
    """Each field missing, and of each wrong type: stored, ignored or 400, and never more than that."""
    needed = ("action", "issue", "comment", "pull_request", "repository", "sender", "installation", "label", "changes")
    kept = {
        key: value
        for key, value in payload.items()
        if key in (*needed, "review", "check_suite", "repositories_removed")
    }
    tried = 0
    for path in _paths(kept, 4):
        if path[-1].endswith("_url") and path[-1] != "html_url":
            continue
        for value in (..., None, 7, -1, True, "", "x", "\ud800\x00", [], [7], {}, {"login": 7}):
            answer = send(_mutated(kept, path, value), event=event)
            tried += 1
            if isinstance(answer, Rejected):
                assert answer.status == 400, (path, value, answer)
            elif answer.request is not None:
                assert stored_request(answer.request.model_dump(mode="json")) == answer.request
    assert tried > 300
