"""Text as GitHub takes it: nothing it refuses, nothing over its limits."""

from __future__ import annotations

import re

BODY_CHARS = 65_536  # of a comment or a pull request's body
TITLE_CHARS = 256
_CUT = "\n\n_[cut here: GitHub takes {limit} characters, this text had {length}]_"
_REFUSED = re.compile("[\x00\ud800-\udfff]")


def body(text: str) -> str:
    """Without NUL and lone surrogates, and cut with a visible note when over the limit (so a marker that must
    survive stands at the beginning)."""
    clean = _REFUSED.sub("", text)
    if len(clean) <= BODY_CHARS:
        return clean
    note = _CUT.format(limit=BODY_CHARS, length=len(clean))
    return clean[: BODY_CHARS - len(note)] + note


def title(text: str) -> str:
    """One line of at most 256 characters."""
    clean = " ".join(_REFUSED.sub("", text).split())
    return clean if len(clean) <= TITLE_CHARS else clean[: TITLE_CHARS - 1] + "…"
