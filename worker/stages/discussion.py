"""An issue's text as it was when somebody asked for it to be worked on: its body, and what was written below it.

A comment that was made or edited later is none of it: whoever asked did not see it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from worker.runs.asked import IssueRequest
from worker.stages.forge import Comment

OURS = "<!-- devstral-fix:"
CHARS, EACH = 20_000, 5_000
#: GitHub's times are whole seconds, and an event may carry that of a moment before its comment was stored.
GRACE = timedelta(seconds=2)


def frozen(request: IssueRequest, comments: Sequence[Comment]) -> str:
    """The body, then what people wrote until then (the newest where it is too much), then what was said with the
    request. Bots and the service itself are left out; without a time it is not known what was there."""
    parts = [request.body]
    until = request.asked_at
    others = [comment for comment in comments if comment.id != request.comment_id]
    told = [] if until is None else [_one(comment) for comment in others if _seen(comment, until)]
    kept, size = [], 0
    for one in reversed(told):
        size += len(one)
        if size > CHARS:
            break
        kept.append(one)
    if kept:
        left_out = len(told) - len(kept)
        heading = "Comments on the issue" + (f" (the newest; {left_out} before them are left out)" if left_out else "")
        parts.append("\n\n".join([f"## {heading}", *reversed(kept)]))
    if request.words:
        parts.append(f"## What {request.sender} said when asking for this\n\n{request.words}")
    return "\n\n".join(parts)


def _seen(comment: Comment, until: datetime) -> bool:
    times = [time for time in (comment.created_at, comment.updated_at) if time is not None]
    return bool(times) and max(times) <= until + GRACE and not comment.is_bot and OURS not in comment.body


def _one(comment: Comment) -> str:
    assert comment.created_at is not None or comment.updated_at is not None
    at = comment.created_at or comment.updated_at
    body = comment.body.strip()
    cut = body if len(body) <= EACH else f"{body[:EACH]}\n[cut here: the comment has {len(body)} characters]"
    return f"### {comment.author}, {at:%Y-%m-%d %H:%M} UTC\n\n{cut}"
