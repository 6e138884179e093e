"""What a GitHub webhook means, decided without I/O: the signature, the shape, and whether it asks us for anything.

Order matters: size, then the signature over the raw bytes, and only then is anything parsed. Few fields are read and
missing ones tolerated where they aren't needed, since GitHub adds events and fields at any time. Entitlement is not
decided here: whoever handles the request asks GitHub about the sender and reads the issue again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

from agent.types import Frozen
from worker.runs.requests import Ending, IssueRequest, StopRequest

MAX_BODY_BYTES = 25 * 1024 * 1024  # GitHub sends none larger
TITLE_CHARS = 1_000
BODY_CHARS = 100_000
_CUT = "\n[cut here by devstral-fix: the text was {length} characters long]"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # Postgres refuses these in text


class Received(Frozen):
    """A webhook that is GitHub's. Exactly one of `request` and `ignored_reason` is set."""

    guid: str
    event: str
    action: str | None
    body_sha256: str
    request: IssueRequest | StopRequest | None = None
    ignored_reason: str | None = None


class Rejected(Frozen):
    """Nothing of it may be stored. `status` is the HTTP status to answer."""

    status: Literal[400, 401, 413, 415]
    message: str


class _Ignored(Exception):
    """It asks nothing of us; the message says why."""


class _Malformed(Exception):
    """A field that this event needs is missing or of a wrong type; the message names it."""


def parse(headers: Mapping[str, str], body: bytes, *, secret: bytes, trigger_label: str) -> Received | Rejected:
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
    action = _clean(action)[:100] if isinstance(action, str) else None
    known: dict[str, Any] = {
        "guid": given["x-github-delivery"],
        "event": event,
        "action": action,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    handler = _HANDLERS.get((event, action))
    if handler is None:
        what = event if action is None else f"{event}.{action}"
        return Received(**known, ignored_reason=f"{what} is not handled")
    try:
        return Received(**known, request=handler(payload, trigger_label))
    except _Ignored as why:
        return Received(**known, ignored_reason=str(why))
    except _Malformed as why:
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


def _issue_labeled(payload: Mapping[str, Any], trigger_label: str) -> IssueRequest:
    label = _trigger(payload, trigger_label)
    if _get(payload, "issue", "pull_request") is not None:
        raise _Ignored("the label is on a pull request")
    sender, sender_type = _sender(payload)
    if _is_bot(sender, sender_type):
        raise _Ignored(f"bots never trigger ({sender})")
    return IssueRequest(
        repository=_repository(payload),
        installation_id=_id(payload, "installation", "id") if payload.get("installation") is not None else None,
        issue_number=_id(payload, "issue", "number"),
        title=_cut(_text(payload, "issue", "title"), TITLE_CHARS),
        body=_cut(_text(payload, "issue", "body", absent=""), BODY_CHARS),
        issue_url=_text(payload, "issue", "html_url", limit=1_000),
        sender=sender,
        sender_type=sender_type,
        label=label,
    )


def _issue_ended(ending: Ending) -> Callable[[Mapping[str, Any], str], StopRequest]:
    """Of any issue: whether a run is under way for it is for the store to say."""

    def stop(payload: Mapping[str, Any], trigger_label: str) -> StopRequest:
        label = _trigger(payload, trigger_label) if ending == "unlabeled" else trigger_label
        if _get(payload, "issue", "pull_request") is not None:
            raise _Ignored("this is a pull request")
        sender, sender_type = _sender(payload)
        if ending == "unlabeled" and _is_bot(sender, sender_type):
            raise _Ignored(f"bots stop nothing by taking the label off ({sender})")
        return StopRequest(
            repository=_repository(payload),
            installation_id=_id(payload, "installation", "id") if payload.get("installation") is not None else None,
            issue_number=_id(payload, "issue", "number"),
            ending=ending,
            sender=sender,
            sender_type=sender_type,
            label=label,
        )

    return stop


def _trigger(payload: Mapping[str, Any], trigger_label: str) -> str:
    label = _get(payload, "label", "name")
    if not isinstance(label, str) or label.strip().casefold() != trigger_label.strip().casefold():
        raise _Ignored("another label")
    return _clean(label)


def _sender(payload: Mapping[str, Any]) -> tuple[str, str]:
    return _text(payload, "sender", "login", limit=100), _text(payload, "sender", "type", limit=100)


def _is_bot(sender: str, sender_type: str) -> bool:
    return sender_type.casefold() == "bot" or sender.casefold().endswith("[bot]")


def _repository(payload: Mapping[str, Any]) -> str:
    repository = _text(payload, "repository", "full_name")
    if not _NAME.fullmatch(repository):
        raise _Malformed("repository.full_name is not owner/name")
    return repository


_ENDINGS: tuple[Ending, ...] = ("closed", "unlabeled", "deleted", "transferred", "locked")
# (event, action) -> what it asks for. A handler raises _Ignored or _Malformed; whatever isn't here is ignored.
_HANDLERS: Mapping[tuple[str, str | None], Callable[[Mapping[str, Any], str], IssueRequest | StopRequest]] = {
    ("issues", "labeled"): _issue_labeled,
    **{("issues", ending): _issue_ended(ending) for ending in _ENDINGS},
}


def _get(payload: Mapping[str, Any], *path: str) -> Any:
    """What is at `path`, None where there is nothing."""
    value: Any = payload
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(payload: Mapping[str, Any], *path: str, absent: str | None = None, limit: int | None = None) -> str:
    """A text that can be stored, of at most `limit` characters. `absent` stands for null or a missing field; without
    it, a text must be there."""
    value = _get(payload, *path)
    if value is None and absent is not None:
        return absent
    if not isinstance(value, str) or (absent is None and not _clean(value)):
        raise _Malformed(f"{'.'.join(path)} is missing or not a text")
    if limit is not None and len(value) > limit:
        raise _Malformed(f"{'.'.join(path)} is longer than {limit} characters")
    return _clean(value)


def _id(payload: Mapping[str, Any], *path: str) -> int:
    value = _get(payload, *path)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise _Malformed(f"{'.'.join(path)} is missing or not a positive number")
    return value


def _clean(text: str) -> str:
    return _UNSTORABLE.sub("", text)


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters, with a visible note where something was cut."""
    if len(text) <= limit:
        return text
    note = _CUT.format(length=len(text))
    return text[: limit - len(note)] + note


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
