"""Celery tasks: each parses its id and calls one use case. Registered by worker processes only."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from celery import Celery

from worker import wakes


def register(app: Celery, use_cases: dict[str, Callable[..., None]]) -> None:
    """Make `use_cases` (by task name) executable by this process; an argument, where there is one, is an id."""
    for name, use_case in use_cases.items():
        app.task(name=name, ignore_result=True)(_by_id(use_case) if name in BY_ID else _plain(use_case))


BY_ID = frozenset({wakes.SETUP, wakes.VERIFY, wakes.DELIVER, wakes.TELL})


def _by_id(use_case: Callable[..., None]) -> Callable[[str], None]:
    def task(id: str) -> None:  # noqa: A002 - the message's word
        use_case(UUID(id))

    return task


def _plain(use_case: Callable[..., None]) -> Callable[[], None]:
    def task() -> None:
        use_case()

    return task
