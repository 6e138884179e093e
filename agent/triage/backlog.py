"""An open issue as triage sees it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, field_validator

from agent.types import Frozen

LARGEST_BODY = 200_000  # characters; GitHub's own limit is 65,536
LONGEST_TITLE = 1_000


class BacklogIssue(Frozen):
    """`title` and `body` are a stranger's words, and longer ones are cut."""

    number: int = Field(gt=0)
    title: str
    body: str = ""
    labels: tuple[str, ...] = ()
    author: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    comments: int = Field(default=0, ge=0)

    @field_validator("title")
    @classmethod
    def _title(cls, title: str) -> str:
        return " ".join(title.split())[:LONGEST_TITLE] or "(no title)"

    @field_validator("body")
    @classmethod
    def _body(cls, body: str) -> str:
        return body[:LARGEST_BODY]
