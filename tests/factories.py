"""Rows and values for tests, with defaults that are valid and easy to recognise."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from worker.runs import requests, workforce
from worker.runs.asked import IssueRequest
from worker.runs.priorities import Priority

COMMIT = "1" * 40
TREE = "2" * 40


def issue_request(number: int = 1, **changes: Any) -> IssueRequest:
    values = {
        "repository": "acme/textkit",
        "installation_id": 100,
        "issue_number": number,
        "title": "wrap() is one too wide",
        "body": "See the test.",
        "issue_url": f"https://github.example/acme/textkit/issues/{number}",
        "sender": "octo-admin",
        "sender_type": "User",
        "label": "devstral-fix",
        **changes,
    }
    return IssueRequest(**values)


def queue_run(
    session: Session,
    number: int = 1,
    *,
    profile: str = "small-24b",
    priority: Priority = Priority.INTERACTIVE,
    commit: str = COMMIT,
    **changes: Any,
) -> UUID:
    """A queued run for an issue of its own."""
    run_id, created = requests.start(
        session,
        issue_request(number, **changes),
        clone_url="https://github.example/acme/textkit.git",
        base_branch="main",
        base_commit=commit,
        profile=profile,
        max_attempts=3,
        repository_config={},
        priority=priority,
    )
    assert created
    return run_id


def gpu_worker(session: Session, name: str = "host:1", *, profile: str = "small-24b", ready: bool = True) -> str:
    """The row of a worker that takes the runs of a profile."""
    about = {"role": "gpu", "queues": [f"gpu.{profile}"], "slots": 2, "isolation": "basic", "version": "1"}
    workforce.register(session, name, profile=profile, **about, lease_seconds=60)
    if ready:
        workforce.ready(session, name)
    return name
