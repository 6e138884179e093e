"""What a worker's row says of its end."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace
from typing import cast

from worker.errors import ModelUnavailable
from worker.presence import Presence
from worker.process import closes
from worker.shutdown import Shutdown


def said(error: Exception | None, *, told: bool = False, why: str | None = None) -> list[str | None]:
    begun, seen = Event(), list[str | None]()
    if told:
        begun.set()
    presence = cast(Presence, SimpleNamespace(close=seen.append))
    closes(presence, cast(Shutdown, SimpleNamespace(begun=begun, why=why)))(type(error), error, None)
    return seen


def test_an_error_that_nobody_asked_for_is_a_failure() -> None:
    assert said(ModelUnavailable("no card")) == ["no card"]
    assert said(KeyError("x")) == ["KeyError: 'x'"]


def test_what_breaks_because_the_worker_was_told_to_end_is_none() -> None:
    """An engine that starts loses its processes then, and its thread says so."""
    assert said(ModelUnavailable("engine core initialization failed"), told=True) == [None]


def test_a_worker_that_gave_up_says_why() -> None:
    assert said(None, told=True, why="the engine died") == ["the engine died"]


def test_an_end_without_an_error_is_none() -> None:
    assert said(None) == [None]
