"""The notification hook, from the row to a receiver over real HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from worker.adapters.hook import WebhookNotifier
from worker.errors import SettingsError
from worker.runs import notifications
from worker.runs.notifications import Kind
from worker.stages.notify import Notify
from worker.store.notifications import Notification
from worker.store.session import Store

SECRET = "hook-secret"


class Receiver:
    """Answers with `statuses` in turn, then 204; keeps what it was sent."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("Location", receiver.url + "elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def notify(store: Store, receiver: Receiver) -> Iterator[Notify]:
    notifier = WebhookNotifier(receiver.url, SecretStr(SECRET))
    yield Notify(store=store, notifier=notifier)
    notifier.close()


def noted(store: Store, about: str = "b1") -> bool:
    with store.transaction() as session:
        return notifications.note(session, Kind.BATCH_FINISHED, about, runs=3)


def rows(store: Store) -> list[Notification]:
    with store.transaction() as session:
        return list(session.scalars(select(Notification).order_by(Notification.id)))


def make_due(store: Store) -> None:
    with store.transaction() as session:
        session.execute(update(Notification).values(publish_after=Notification.created_at))


def test_it_is_sent_once_and_signed(store: Store, receiver: Receiver, notify: Notify) -> None:
    assert noted(store)
    assert not noted(store)  # noticed again: told once
    notify()
    notify()
    ((headers, body),) = receiver.requests
    expected = hmac.new(SECRET.encode(), headers["x-devstral-fix-timestamp"].encode() + b"." + body, hashlib.sha256)
    assert headers["x-devstral-fix-signature-256"] == "sha256=" + expected.hexdigest()
    assert headers["x-devstral-fix-event"] == "batch_finished"
    data = json.loads(body)
    assert data["data"] == {"runs": 3}
    assert data["id"] == headers["x-devstral-fix-delivery"]
    (row,) = rows(store)
    assert row.ended_at is not None


def test_a_receiver_that_fails_is_told_again_with_the_same_id(store: Store, receiver: Receiver, notify: Notify) -> None:
    receiver.statuses = [503]
    noted(store)
    notify()
    (row,) = rows(store)
    assert row.ended_at is None
    assert row.reason == "the hook answered 503"
    notify()  # not due yet
    assert len(receiver.requests) == 1
    make_due(store)
    notify()
    first, second = (headers["x-devstral-fix-delivery"] for headers, _ in receiver.requests)
    assert first == second
    assert rows(store)[0].ended_at is not None


@pytest.mark.parametrize("status", [400, 404, 302])
def test_a_refusal_or_a_redirect_is_final(store: Store, receiver: Receiver, notify: Notify, status: int) -> None:
    receiver.statuses = [status]
    noted(store)
    noted(store, "b2")
    notify()
    assert len(receiver.requests) == 2  # one each: no redirect was followed, and the second was not held up
    assert [row.reason for row in rows(store)] == [f"the hook answered {status}", None]


def test_a_receiver_that_is_away_is_given_up_after_a_day(store: Store, receiver: Receiver, notify: Notify) -> None:
    noted(store)
    receiver.close()
    notify()
    assert (rows(store)[0].reason or "").startswith("the hook did not answer")
    with store.transaction() as session:
        session.execute(update(Notification).values(created_at=Notification.created_at - timedelta(days=2)))
    make_due(store)
    notify()
    (row,) = rows(store)
    assert row.ended_at is not None
    assert (row.reason or "").startswith("given up")


def test_without_a_hook_nothing_is_kept_for_later(store: Store) -> None:
    noted(store)
    Notify(store=store, notifier=None)()
    assert rows(store)[0].reason == "no hook is set"


def test_nothing_is_sent_unsigned() -> None:
    for secret in (None, SecretStr("")):
        with pytest.raises(SettingsError, match="NOTIFY_SECRET"):
            WebhookNotifier("https://hooks.example.com/x", secret)
    with pytest.raises(SettingsError, match="NOTIFY_URL"):
        WebhookNotifier("ftp://hooks.example.com/x", SecretStr(SECRET))
