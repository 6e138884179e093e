"""What a GitHub webhook means, decided without I/O: the signature, the shape, and whether it asks us for anything.

Order matters: size, then the signature over the raw bytes, and only then is anything parsed. Few fields are read and
missing ones tolerated where they aren't needed, since GitHub adds events and fields at any time. `events` knows what
each event asks for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from agent.types import Frozen
from api import events
from api.payload import clean
from worker.runs.asked import Asked

MAX_BODY_BYTES = 25 * 1024 * 1024  # GitHub sends none larger

_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,100}")


class Received(Frozen):
    """A webhook that is GitHub's. Exactly one of `request` and `ignored_reason` is set."""

    guid: str
    event: str
    action: str | None
    body_sha256: str
    request: Asked | None = None
    ignored_reason: str | None = None


class Rejected(Frozen):
    """Nothing of it may be stored. `status` is the HTTP status to answer."""

    status: Literal[400, 401, 413, 415]
    message: str


def parse(headers: Mapping[str, str], body: bytes, *, secret: bytes, names: events.Names) -> Received | Rejected:
    """`body` is what came over the wire, untouched. Never raises on what a client sent; ValueError for an empty
    `secret`, which would accept everyone."""
    if not secret:
        raise ValueError("the webhook secret is empty: disable the endpoint instead")
    given = {name.lower(): value for name, value in headers.items()}
    if len(body) > MAX_BODY_BYTES:
        return Rejected(status=413, message=f"the body is larger than {MAX_BODY_BYTES} bytes")
    if not _signed(given.get("x-hub-signature-256"), body, secret):
        return Rejected(status=401, message="X-Hub-Signature-256 is missing or does not match")
    unusable = _unusable(given)
    if unusable is not None:
        return unusable
    try:
        payload = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return Rejected(status=400, message="the body is not JSON in UTF-8 that can be read")
    if not isinstance(payload, dict):
        return Rejected(status=400, message="the body is not a JSON object")
    event = given["x-github-event"]
    action = payload.get("action")
    action = clean(action)[:100] if isinstance(action, str) else None
    known: dict[str, Any] = {
        "guid": given["x-github-delivery"],
        "event": event,
        "action": action,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    try:
        return Received(**known, request=events.request_of(event, action, payload, names))
    except events.Ignored as why:
        return Received(**known, ignored_reason=str(why))
    except events.Malformed as why:
        return Rejected(status=400, message=f"{event}.{action}: {why}")


def _signed(signature: str | None, body: bytes, secret: bytes) -> bool:
    expected = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    # As bytes: comparing text would raise on a signature that isn't ASCII.
    return hmac.compare_digest(expected.encode(), (signature or "").encode("utf-8", "replace"))


def _unusable(headers: Mapping[str, str]) -> Rejected | None:
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/x-www-form-urlencoded":
        return Rejected(status=415, message="form-encoded: set the webhook's content type to application/json")
    if content_type != "application/json":
        return Rejected(status=415, message="the content type must be application/json")
    for name in ("X-GitHub-Delivery", "X-GitHub-Event"):
        if not _TOKEN.fullmatch(headers.get(name.lower(), "")):
            return Rejected(status=400, message=f"{name} is missing or malformed")
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
