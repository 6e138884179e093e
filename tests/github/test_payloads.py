"""Every published payload, posted to the receiver as GitHub does, and then changed in every way that should not matter
or should refuse it: nothing crashes, and only what people with rights ask for becomes a run."""

from __future__ import annotations

import contextlib
import copy
import http.client
import itertools
import json
import urllib.parse
import uuid
from collections import Counter
from typing import Any

import pytest

from tests.github.scene import LABEL, Scene
from tests.github_double import octokit_all, octokit_examples
from worker.demo.github_double.hop import sign
from worker.store.models import DeliveryState


def post(scene: Scene, event: str, payload: Any, *, guid: str | None = None, **headers: str | None) -> int:
    """The receiver's status."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    sent: dict[str, str | None] = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": guid or str(uuid.uuid4()),
        "X-Hub-Signature-256": sign(scene.double.webhook_secret.encode(), body),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    address = urllib.parse.urlsplit(scene.double.receiver_url or "")
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    with contextlib.closing(connection):
        # Refused before all of it was read: the answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                "POST", address.path, body, {name: value for name, value in sent.items() if value is not None}
            )
        return connection.getresponse().status


def ours(scene: Scene, number: int, **changes: Any) -> dict[str, Any]:
    """A published `issues.labeled`, of our repository and with our label."""
    payload = copy.deepcopy(octokit_examples("issues", "labeled")[0])
    payload["label"]["name"] = LABEL
    payload["repository"]["full_name"] = scene.name
    payload["issue"]["number"] = number
    payload["installation"] = {"id": scene.double.installation_id}
    payload["sender"] |= {"login": "octo-admin", "type": "User"}
    return payload | changes


def test_every_published_payload(scene: Scene, record_property) -> None:
    """Of foreign repositories, so none may start anything; the table is of what each came to."""
    statuses: Counter[int] = Counter()
    examples = octokit_all()
    assert len(examples) >= 329
    for event, payload in examples:
        statuses[post(scene, event, payload)] += 1
    assert set(statuses) == {202}
    scene.intake()
    deliveries = scene.deliveries()
    assert len(deliveries) == len(examples)
    assert scene.runs() == []
    assert {d.state for d in deliveries} <= {DeliveryState.IGNORED, DeliveryState.RECEIVED}
    record_property("published payloads", dict(statuses))
    record_property("came to", dict(Counter(d.state.value for d in deliveries)))


@pytest.mark.parametrize("event", ["issues", "issue_comment", "pull_request", "pull_request_review", "installation"])
def test_published_payloads_with_a_field_gone_or_wrong(scene: Scene, event: str) -> None:
    """One field of each kind is taken away or replaced; every answer is 2xx or 4xx."""
    for payload in octokit_examples(event)[:3]:
        for key, value in itertools.product(payload, (None, 7, "x", [], {})):
            status = post(scene, event, {**payload, key: value})
            assert status in (202, 400), (event, payload.get("action"), key, value, status)
    assert scene.runs() == []


def test_only_who_may_write_starts_a_run(scene: Scene) -> None:
    number = scene.issue()
    for sender in (
        {"login": "stranger", "type": "User"},
        {"login": "nobody-at-all", "type": "User"},
        {"login": "devstral-fixer[bot]", "type": "Bot"},
        {"login": "octo-admin", "type": "Bot"},
        {"login": "octo-admin[bot]", "type": "User"},
    ):
        assert post(scene, "issues", ours(scene, number, sender=sender)) == 202
    scene.intake()
    assert scene.runs() == []
    assert post(scene, "issues", ours(scene, number)) == 202
    scene.intake()
    assert [run.requested_by for run in scene.runs()] == ["octo-admin"]


def test_the_same_delivery_twice_and_another_of_the_same_label(scene: Scene) -> None:
    number, guid = scene.issue(), str(uuid.uuid4())
    for _ in range(3):
        assert post(scene, "issues", ours(scene, number), guid=guid) == 202
    assert post(scene, "issues", ours(scene, number)) == 202
    scene.intake()
    assert len(scene.runs()) == 1
    assert len([delivery for delivery in scene.deliveries() if delivery.request is not None]) == 2


def test_events_out_of_order(scene: Scene) -> None:
    """The label came off before its webhook did: what is so now counts."""
    number = scene.issue()
    off = ours(scene, number, action="unlabeled")
    assert post(scene, "issues", off) == 202
    scene.intake()
    assert scene.deliveries()[-1].reason == "no run is under way"
    scene.double.call("PATCH", f"/repos/{scene.name}/issues/{number}", {"state": "closed"})
    assert post(scene, "issues", ours(scene, number)) == 202
    scene.intake()
    assert scene.runs() == [], "the issue is closed by now"


def test_a_comment_on_a_pull_request_that_is_not_ours(scene: Scene) -> None:
    payload = copy.deepcopy(octokit_examples("issue_comment", "created")[0])
    payload["repository"]["full_name"] = scene.name
    payload["installation"] = {"id": scene.double.installation_id}
    payload["issue"] |= {"number": 999, "pull_request": {"url": "u"}}
    payload["comment"] |= {"body": "/devstral fix", "user": {"login": "octo-admin"}}
    payload["sender"] = {"login": "octo-admin", "type": "User"}
    assert post(scene, "issue_comment", payload) == 202
    scene.intake()
    assert scene.runs() == []
    assert scene.deliveries()[-1].reason == "the pull request is not from this service"


@pytest.mark.parametrize(
    ("payload", "headers", "status"),
    [
        (b"payload=%7B%7D", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"[]", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"", {}, 400),
        (b'{"action": "labeled"', {}, 400),
        (b"{}", {"X_Hub_Signature_256": None}, 401),
        (b"{}", {"X_Hub_Signature_256": "sha256=" + "0" * 64}, 401),
        (b"{}", {"X_GitHub_Delivery": None}, 400),
        (b"{}", {"X_GitHub_Event": None}, 400),
    ],
)
def test_what_is_no_webhook_of_github_s(
    scene: Scene, payload: bytes, headers: dict[str, str | None], status: int
) -> None:
    assert post(scene, "issues", payload, **headers) == status
    assert scene.deliveries() == []


def test_text_that_is_huge_or_of_every_script(scene: Scene) -> None:
    number = scene.issue()
    payload = ours(scene, number)
    payload["issue"] |= {"title": "Ünïcödé 🙂 \u202e\x00", "body": "漢字\x00 " * 200_000}
    assert post(scene, "issues", payload) == 202
    assert post(scene, "issues", b" " * (25 * 1024 * 1024 + 1)) == 413
    scene.intake()
    (run,) = scene.runs()
    assert "Ünïcödé 🙂" in run.issue_title
    assert "漢字" in run.issue_body
    assert len(run.issue_body) <= 100_000
