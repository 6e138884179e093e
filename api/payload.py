"""Reading a webhook's payload: few fields, each of the type it has to be, and nothing that the store can't hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.runs.asked import is_repository

TITLE_CHARS = 1_000
BODY_CHARS = 100_000
_CUT = "\n[cut here by devstral-fix: the text was {length} characters long]"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # Postgres refuses these in text


class Ignored(Exception):
    """It asks nothing of us; the message says why."""


class Malformed(Exception):
    """A field that this event needs is missing or of a wrong type; the message names it."""


def get(payload: Mapping[str, Any], *path: str) -> Any:
    """What is at `path`, None where there is nothing."""
    value: Any = payload
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text(payload: Mapping[str, Any], *path: str, absent: str | None = None, limit: int | None = None) -> str:
    """A text that can be stored, of at most `limit` characters. `absent` stands for null or a missing field; without
    it, a text must be there."""
    value = get(payload, *path)
    if value is None and absent is not None:
        return absent
    if not isinstance(value, str) or (absent is None and not clean(value)):
        raise Malformed(f"{'.'.join(path)} is missing or not a text")
    if limit is not None and len(value) > limit:
        raise Malformed(f"{'.'.join(path)} is longer than {limit} characters")
    return clean(value)


def number(payload: Mapping[str, Any], *path: str) -> int:
    value = get(payload, *path)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise Malformed(f"{'.'.join(path)} is missing or not a positive number")
    return value


def moment(payload: Mapping[str, Any], *path: str) -> datetime | None:
    """A time of GitHub's, None where there is none that can be read: nothing depends on it alone."""
    value = get(payload, *path)
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if found is None else found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def commit(payload: Mapping[str, Any], *path: str) -> str:
    value = get(payload, *path)
    if not isinstance(value, str) or not _COMMIT.fullmatch(value):
        raise Malformed(f"{'.'.join(path)} is not a commit id")
    return value


def repository(payload: Mapping[str, Any], *path: str) -> str:
    value = text(payload, *path)
    if not _NAME.fullmatch(value) or not is_repository(value):
        raise Malformed(f"{'.'.join(path)} is not owner/name")
    return value


def installation(payload: Mapping[str, Any]) -> int | None:
    """The App's installation, None where a plain webhook sent it."""
    return number(payload, "installation", "id") if payload.get("installation") is not None else None


def clean(value: str) -> str:
    return _UNSTORABLE.sub("", value)


def cut(value: str, limit: int) -> str:
    """At most `limit` characters, with a visible note where something was cut."""
    if len(value) <= limit:
        return value
    note = _CUT.format(length=len(value))
    return value[: limit - len(note)] + note
