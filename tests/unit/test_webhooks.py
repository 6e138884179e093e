"""Webhooks: who signed, what is asked, what is ignored, what is refused. Payloads are published examples, mutated."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest

from api import webhooks
from api.events import Names
from api.payload import BODY_CHARS, TITLE_CHARS
from api.webhooks import Received, Rejected, parse
from tests.github_double import octokit_all, octokit_examples
from worker.runs.asked import IssueRequest, RemovedRequest, StopRequest

SECRET = b"It's a Secret to Everybody"
LABEL = "devstral-fix"
NAMES = Names(trigger_label=LABEL, mention="devstral-fixer")


def signed(body: bytes, *, event: str = "issues", **changed: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest(),
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in headers.items() if value is not None}


def send(payload: Any, *, event: str = "issues", **changed: str | None) -> Received | Rejected:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return parse(signed(body, event=event, **changed), body, secret=SECRET, names=NAMES)


def labeled(**changes: Any) -> dict[str, Any]:
    """A published `issues.labeled` with our label, by way of an App."""
    payload = copy.deepcopy(octokit_examples("issues", "labeled")[0])
    payload["label"]["name"] = LABEL
    payload["installation"] = {"id": 100, "node_id": "x"}
    return payload | changes


def accepted(answer: Received | Rejected) -> IssueRequest:
    assert isinstance(answer, Received), answer
    assert isinstance(answer.request, IssueRequest), answer.ignored_reason
    return answer.request


def stopped(answer: Received | Rejected) -> StopRequest:
    assert isinstance(answer, Received), answer
    assert isinstance(answer.request, StopRequest), answer.ignored_reason
    return answer.request


def ignored(answer: Received | Rejected) -> str:
    assert isinstance(answer, Received), answer
    assert answer.request is None
    assert answer.ignored_reason
    return answer.ignored_reason


def refused(answer: Received | Rejected) -> int:
    assert isinstance(answer, Rejected), answer
    return answer.status


def test_the_published_signature_vector() -> None:
    """The documentation's own example of secret, body and signature."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = signed(b"Hello, World!") | {"X-Hub-Signature-256": signature}
    answer = parse(headers, b"Hello, World!", secret=SECRET, names=NAMES)
    assert refused(answer) == 400  # past the signature, and then no JSON
    assert refused(parse(headers, b"Hello, World?", secret=SECRET, names=NAMES)) == 401


def test_a_labelled_issue_asks_for_work() -> None:
    payload = labeled()
    body = json.dumps(payload).encode()
    answer = send(body)
    request = accepted(answer)
    assert isinstance(answer, Received)
    assert (answer.event, answer.action, answer.ignored_reason) == ("issues", "labeled", None)
    assert answer.guid == "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert answer.body_sha256 == hashlib.sha256(body).hexdigest()
    assert request.repository == payload["repository"]["full_name"]
    assert request.installation_id == 100
    assert request.issue_number == payload["issue"]["number"]
    assert (request.title, request.body) == (payload["issue"]["title"], payload["issue"]["body"])
    assert request.issue_url == payload["issue"]["html_url"]
    assert (request.sender, request.sender_type) == (payload["sender"]["login"], "User")
    assert request.label == LABEL


def test_without_an_app_there_is_no_installation() -> None:
    assert accepted(send({k: v for k, v in labeled().items() if k != "installation"})).installation_id is None


@pytest.mark.parametrize("name", ["DEVSTRAL-FIX", "Devstral-Fix", " devstral-fix "])
def test_labels_are_compared_without_case(name: str) -> None:
    assert accepted(send(labeled(label={"name": name}))).label == name


@pytest.mark.parametrize("name", ["X-Hub-Signature-256", "x-hub-signature-256", "X-HUB-SIGNATURE-256"])
def test_header_names_have_no_case(name: str) -> None:
    body = json.dumps(labeled()).encode()
    headers = signed(body)
    headers[name] = headers.pop("X-Hub-Signature-256")
    accepted(parse(headers, body, secret=SECRET, names=NAMES))


@pytest.mark.parametrize(
    "signature",
    [None, "", "sha256=", "sha256=" + "0" * 64, "sha1=" + "0" * 40, "é", "\ud800", "SHA256=" + "0" * 64],
)
def test_a_bad_signature_is_refused_before_anything_is_read(signature: str | None) -> None:
    body = b"\xff not json"
    headers = signed(body, X_Hub_Signature_256=signature, Content_Type="text/plain", X_GitHub_Event=None)
    assert refused(parse(headers, body, secret=SECRET, names=NAMES)) == 401


def test_the_old_signature_does_not_count() -> None:
    body = json.dumps(labeled()).encode()
    old = "sha1=" + hmac.new(SECRET, body, "sha1").hexdigest()
    assert refused(send(body, X_Hub_Signature_256=None, X_Hub_Signature=old)) == 401


def test_an_empty_secret_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="empty"):
        parse({}, b"", secret=b"", names=NAMES)


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "", None, "application/jsonp"]
)
def test_only_json_is_taken(content_type: str | None) -> None:
    answer = send(b"payload=%7B%7D", Content_Type=content_type)
    assert refused(answer) == 415
    assert isinstance(answer, Rejected)
    assert "application/json" in answer.message


def test_a_charset_is_no_other_type() -> None:
    accepted(send(labeled(), Content_Type="Application/JSON; charset=utf-8"))


@pytest.mark.parametrize("name", ["X_GitHub_Delivery", "X_GitHub_Event"])
@pytest.mark.parametrize("value", [None, "", " ", "a b", "x" * 101, "a\x00b", "é"])
def test_the_headers_we_store_are_needed(name: str, value: str | None) -> None:
    assert refused(send(labeled(), **{name: value})) == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b'{"a":1} x',
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b"NaN",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"\x00" * 1000,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_bad_bodies_are_refused(body: bytes) -> None:
    assert refused(send(body)) == 400


def test_a_body_over_the_cap_is_refused_unread() -> None:
    assert refused(parse({}, b"x" * (webhooks.MAX_BODY_BYTES + 1), secret=SECRET, names=NAMES)) == 413


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("ping", {"zen": "…", "hook_id": 1}),
        ("issues", {"action": "renamed_by_future"}),
        ("issues", {}),
        ("issues", {"action": 7}),
        ("issues", {"action": ["labeled"]}),
        ("issues", {"action": "labeled"}),
        ("issues", {"action": "labeled", "label": "devstral-fix"}),
        ("issues", {"action": "labeled", "label": {"name": None}}),
        ("issues", {"action": "labeled", "label": {"name": "bug"}}),
        ("never_heard_of", {"action": "labeled"}),
        ("installation", {"action": "created"}),
    ],
)
def test_what_we_do_not_handle_is_ignored(event: str, payload: dict[str, Any]) -> None:
    ignored(send(payload, event=event))


def test_bots_never_trigger() -> None:
    sender = labeled()["sender"]
    assert "bot" in ignored(send(labeled(sender=sender | {"type": "Bot"})))
    assert "bot" in ignored(send(labeled(sender=sender | {"login": "devstral-fixer[bot]"})))


def test_a_label_on_a_pull_request_is_ignored() -> None:
    issue = labeled()["issue"] | {"pull_request": {"url": "https://example.invalid"}}
    assert "pull request" in ignored(send(labeled(issue=issue)))


@pytest.mark.parametrize("change", [{"state": "closed"}, {"locked": True}, {"state": None}])
def test_state_is_read_again_later(change: dict[str, Any]) -> None:
    accepted(send(labeled(issue=labeled()["issue"] | change)))


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(payload: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            payload = payload[key]
        payload[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("repository", None),
        ("repository.full_name", None),
        ("repository.full_name", 7),
        ("repository.full_name", "no-slash"),
        ("repository.full_name", "a/b/c"),
        ("repository.full_name", "../x y"),
        ("repository.full_name", "../x"),
        ("repository.full_name", "a/.."),
        ("repository.full_name", "a/b\n"),
        ("issue", None),
        ("issue", "text"),
        ("issue.number", None),
        ("issue.number", "7"),
        ("issue.number", 0),
        ("issue.number", True),
        ("issue.number", 7.5),
        ("issue.number", 2**63),
        ("issue.title", None),
        ("issue.title", ["x"]),
        ("issue.body", 7),
        ("issue.html_url", None),
        ("sender", None),
        ("sender.login", ""),
        ("sender.login", "\x00"),
        ("sender.login", "x" * 101),
        ("issue.html_url", "https://" + "x" * 1_000),
        ("sender.type", None),
        ("installation", {}),
        ("installation", "x"),
        ("installation.id", "100"),
    ],
)
def test_a_field_we_need_must_be_there_only_when_we_need_it(path: str, value: Any) -> None:
    payload = labeled()
    _set(path, value)(payload)
    answer = send(payload)
    assert refused(answer) == 400
    assert isinstance(answer, Rejected)
    assert path.split(".", maxsplit=1)[0] in answer.message
    payload["label"]["name"] = "another"
    ignored(send(payload))


def test_an_issue_without_text_has_an_empty_body() -> None:
    payload = labeled()
    payload["issue"]["body"] = None
    assert accepted(send(payload)).body == ""


def test_what_a_database_refuses_is_taken_out_and_long_text_cut() -> None:
    payload = labeled()
    payload["issue"]["title"] = "nul \x00 and surrogate \ud800 and 🙂 " + "t" * 2_000
    payload["issue"]["body"] = "b" * 200_000
    request = accepted(send(payload))
    assert request.title.startswith("nul  and surrogate  and 🙂 ttt")
    assert len(request.title) == TITLE_CHARS
    assert len(request.body) == BODY_CHARS
    assert "200000 characters" in request.body[-100:]
    request.model_dump_json().encode("utf-8")


def test_every_published_payload_is_read_without_a_crash() -> None:
    examples = octokit_all()
    assert len(examples) > 300
    answers = [send(example, event=event) for event, example in examples]
    asked = [answer.request for answer in answers if isinstance(answer, Received) and answer.request is not None]
    assert len(answers) == len(examples)
    assert all(isinstance(answer, Received) for answer in answers)
    # None has our label, a command or a branch of ours, so none starts anything; what ends an issue, whatever its
    # labels, is asked about, and so is what takes repositories away from us.
    assert {request.ending for request in asked if isinstance(request, StopRequest)} == {
        "deleted",
        "transferred",
        "locked",
    }
    assert {request.removal for request in asked if isinstance(request, RemovedRequest)} == {
        "uninstalled",
        "suspended",
        "removed",
        "renamed",
        "transferred",
    }
    assert all(isinstance(request, StopRequest | RemovedRequest) for request in asked)


def test_every_published_payload_with_our_label_asks_once() -> None:
    for payload in octokit_examples("issues", "labeled"):
        payload["label"]["name"] = LABEL
        accepted(send(payload))


@pytest.mark.parametrize("action", ["closed", "unlabeled", "deleted", "transferred", "locked"])
def test_what_ends_an_issue_asks_to_stop(action: str) -> None:
    request = stopped(send(labeled(action=action)))
    assert (request.ending, request.repository, request.issue_number) == (action, "Codertocat/Hello-World", 1)
    assert (request.sender, request.label) == ("Codertocat", LABEL)


def test_another_label_taken_off_or_a_bot_that_takes_ours_off_stops_nothing() -> None:
    other = labeled(action="unlabeled")
    other["label"]["name"] = "bug"
    assert ignored(send(other)) == "another label"
    bot = labeled(action="unlabeled")
    bot["sender"] = {"login": "devstral-fixer[bot]", "type": "Bot"}
    assert "bots stop nothing" in ignored(send(bot))
    bot["action"] = "closed"  # a bot may close: what counts is that the issue is closed
    assert stopped(send(bot)).sender == "devstral-fixer[bot]"


@pytest.mark.parametrize("action", ["closed", "locked"])
def test_a_pull_request_s_end_is_no_issue_s(action: str) -> None:
    payload = labeled(action=action)
    payload["issue"]["pull_request"] = {"url": "u"}
    assert ignored(send(payload)) == "this is a pull request"
