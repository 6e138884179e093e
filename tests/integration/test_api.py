"""The HTTP edge on real Postgres and Redis: what is stored, what is refused, and that nothing crashes it."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.app import build
from tests.factories import queue_run
from worker.settings import Settings
from worker.store.models import Delivery, DeliveryState

SECRET = "It's a Secret to Everybody"


def make_settings(store, redis_url, **changes):
    url = store.engine.url.render_as_string(hide_password=False)
    return Settings(
        _env_file=None,
        **{"database_url": url, "redis_url": redis_url, "webhook_secret": SECRET, "api_token": "t0ken", **changes},
    )


@pytest.fixture
def client(store, redis_url):
    with TestClient(build(make_settings(store, redis_url))) as client:
        yield client


def event(**changes):
    return {
        "action": "labeled",
        "label": {"name": "devstral-fix"},
        "issue": {"number": 7, "title": "Broken", "body": "It is.", "html_url": "https://github.example/i/7"},
        "repository": {"full_name": "acme/textkit"},
        "installation": {"id": 100},
        "sender": {"login": "ann", "type": "User"},
        **changes,
    }


def post(client, body, *, secret=SECRET, name="issues", guid=None, content_type="application/json", **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    sent = {
        "Content-Type": content_type,
        "X-GitHub-Event": name,
        "X-GitHub-Delivery": guid or str(uuid.uuid4()),
        "X-Hub-Signature-256": signature,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return client.post("/webhooks/github", content=raw, headers={k: v for k, v in sent.items() if v is not None})


def deliveries(store):
    with store.transaction() as session:
        return session.scalars(select(Delivery)).all()


def test_both_secrets_are_accepted_while_one_is_rotated(store, redis_url):
    with TestClient(build(make_settings(store, redis_url, webhook_secret_previous="before"))) as client:
        assert [post(client, event(), secret=s).status_code for s in (SECRET, "before", "never")] == [202, 202, 401]
    with TestClient(build(make_settings(store, redis_url))) as client:
        assert post(client, event(), secret="before").status_code == 401
    only = make_settings(store, redis_url, webhook_secret=None, webhook_secret_previous="before")
    with TestClient(build(only)) as client:
        assert post(client, event(), secret="before").status_code == 404


def test_a_signed_request_is_stored_and_wakes_the_queue(client, store, redis_url):
    import redis

    answer = post(client, event(), guid="g-1")
    assert answer.status_code == 202
    assert answer.json() == {"delivery": "g-1", "new": True, "ignored": None}
    (row,) = deliveries(store)
    assert (row.key, row.state, row.repository, row.issue_number) == ("g-1", DeliveryState.RECEIVED, "acme/textkit", 7)
    queue = redis.Redis.from_url(redis_url)
    message = queue.blpop(["default"], timeout=10)
    queue.close()
    assert message is not None
    headers = json.loads(message[1])["headers"]
    assert (headers["task"], headers["argsrepr"]) == ("devstral_fix.intake", "()")


def test_the_same_delivery_twice_is_one_row(client, store):
    assert post(client, event(), guid="g-1").json()["new"] is True
    again = post(client, event(), guid="g-1")
    assert (again.status_code, again.json()["new"]) == (202, False)
    assert len(deliveries(store)) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"secret": "wrong"}, 401),
        ({"X_Hub_Signature_256": None}, 401),
        ({"X_Hub_Signature_256": "sha1=abc"}, 401),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "text/plain"}, 415),
        ({"X_GitHub_Delivery": None}, 400),
        ({"X_GitHub_Event": None}, 400),
    ],
)
def test_a_bad_request_stores_nothing(client, store, changes, status):
    answer = post(client, event(), **changes)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert deliveries(store) == []


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 50_000])
def test_malformed_json_is_a_400(client, store, body):
    assert post(client, body).status_code == 400
    assert deliveries(store) == []


def test_a_body_of_30_mb_is_refused(client, store):
    assert post(client, b" " * 30_000_000).status_code == 413
    assert deliveries(store) == []


def test_a_body_that_hides_its_length_is_refused_while_it_is_read(client):
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(40):
            sent += 1_000_000
            yield b" " * 1_000_000

    answer = client.post("/webhooks/github", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ping", {"zen": "Keep it simple."}),
        ("never_heard_of", {"action": "x"}),
        ("issues", event(action="pinned")),
        ("issues", event(label={"name": "bug"})),
        ("issues", event(sender={"login": "dependabot[bot]", "type": "Bot"})),
        ("push", {}),
    ],
)
def test_what_asks_nothing_of_us_is_recorded_as_ignored(client, store, name, body):
    answer = post(client, body, name=name)
    assert answer.status_code == 202
    (row,) = deliveries(store)
    assert row.state is DeliveryState.IGNORED
    assert row.reason == answer.json()["ignored"]
    assert row.request is None


@pytest.mark.parametrize("missing", ["issue", "repository", "sender"])
def test_a_missing_field_of_an_event_we_handle_is_a_400(client, store, missing):
    body = event()
    del body[missing]
    assert post(client, body).status_code == 400
    assert deliveries(store) == []


def test_text_that_postgres_cannot_hold_is_stored_without_it(client, store):
    body = json.dumps(event(issue={**event()["issue"], "title": "nul \x00", "body": "lone \ud800"})).encode()
    assert post(client, body).status_code == 202
    (row,) = deliveries(store)
    assert row.request is not None
    assert "\x00" not in row.request["title"]


def test_without_a_secret_the_endpoint_is_off(store, redis_url):
    for secret in (None, ""):
        with TestClient(build(make_settings(store, redis_url, webhook_secret=secret))) as client:
            answer = post(client, event(), secret="")
            assert answer.status_code == 404
            assert "DEVSTRAL_FIX_WEBHOOK_SECRET" in answer.json()["detail"]
    assert deliveries(store) == []


def test_redis_may_be_down(store):
    with TestClient(build(make_settings(store, "redis://127.0.0.1:1/0"))) as client:
        assert post(client, event()).status_code == 202
    assert len(deliveries(store)) == 1


def test_postgres_down_is_a_503_and_readiness_says_so(redis_url):
    settings = Settings(
        _env_file=None,
        database_url="postgresql+psycopg://nobody:x@127.0.0.1:1/none",
        redis_url=redis_url,
        webhook_secret=SECRET,
    )
    with TestClient(build(settings)) as client:
        answer = post(client, event())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_health_and_readiness(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_a_run_is_shown_behind_the_token(client, store):
    with store.transaction() as session:
        run_id = queue_run(session)
    url = f"/api/v1/runs/{run_id}"
    assert client.get(url).status_code == 401
    assert client.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get(url, headers={"Authorization": "Basic t0ken"}).status_code == 401
    shown = client.get(url, headers={"Authorization": "Bearer t0ken"})
    assert shown.status_code == 200
    body = shown.json()
    assert (body["run_id"], body["state"], body["outcome"]) == (str(run_id), "queued", None)
    assert body["usage"] == {"prompt": 0, "cached": 0, "cache_untold": 0, "completion": 0}
    missing = client.get(f"/api/v1/runs/{uuid.uuid4()}", headers={"Authorization": "Bearer t0ken"})
    assert missing.status_code == 404
    assert client.get("/api/v1/runs/7", headers={"Authorization": "Bearer t0ken"}).status_code == 422


def test_without_a_token_set_the_api_is_off(store, redis_url):
    with TestClient(build(make_settings(store, redis_url, api_token=None))) as client:
        assert client.get(f"/api/v1/runs/{uuid.uuid4()}", headers={"Authorization": "Bearer "}).status_code == 404
