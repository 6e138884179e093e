"""Text as Postgres can hold it."""

from __future__ import annotations


def clean(text: str) -> str:
    """Text that Postgres can hold: no NUL, no lone surrogates."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
