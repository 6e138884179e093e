"""What the readers of all formats share: text without the terminal's traces, and JSON that may be broken."""

from __future__ import annotations

import json
from typing import Any


class NotRecorded(ValueError):
    """A file is no recording of a format that is known here; the message says what is wrong with it."""


def plain(text: Any) -> str:
    """`text` with the line ends of Unix; what is no text is nothing."""
    return text.replace("\r\n", "\n") if isinstance(text, str) else ""


def patch(text: Any) -> str | None:
    """A diff that can be applied: Unix line ends, no blank lines before it, one line end after it. None: there is
    none."""
    found = plain(text).lstrip("\n")
    return None if not found.strip() else found if found.endswith("\n") else found + "\n"


def arguments(text: Any) -> tuple[dict[str, Any], str | None]:
    """A call's arguments from their JSON text, and what is wrong with it."""
    if isinstance(text, dict):
        return text, None
    try:
        value = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError) as error:
        return {"unparsed": plain(text)}, f"the arguments are no JSON: {error}"
    return (value, None) if isinstance(value, dict) else ({"unparsed": plain(text)}, "the arguments are no JSON object")


def positive(value: Any) -> float | None:
    """A price or a count of a format in which 0 means that nobody counted."""
    return float(value) if isinstance(value, int | float) and value > 0 else None


def count(value: Any) -> int | None:
    """As `positive`, whole."""
    return int(value) if isinstance(value, int) and value > 0 else None
