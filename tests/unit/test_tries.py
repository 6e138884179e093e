"""How many tries a run gets, which one is next, and where a failed run goes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from worker.runs.tries import Cascade, Place, Samples, following
from worker.store.models import RunKind
from worker.store.tries import Try


@pytest.mark.parametrize(
    ("samples", "asked", "planned", "at_most"),
    [
        (Samples(), None, 1, 1),
        (Samples(each=3), None, 3, 3),
        (Samples(each=3), 1, 1, 1),
        (Samples(each=1, most=4), 8, 4, 4),
        (Samples(each=6, most=4), 8, 6, 6),
        (Samples(each=2, idle=5), None, 2, 5),
        (Samples(each=4, idle=2), None, 4, 4),
        (Samples(each=99, most=99, idle=99), 99, 8, 8),
    ],
)
def test_how_many(samples, asked, planned, at_most):
    """Red without `most` in `planned`: a repository could spend more than the operator allows."""
    assert (samples.planned(RunKind.FIX, asked), samples.at_most(RunKind.FIX, asked)) == (planned, at_most)


@pytest.mark.parametrize("kind", [RunKind.REVISE, RunKind.EXPLAIN, RunKind.TRIAGE])
def test_what_is_no_fix_is_tried_once(kind):
    samples = Samples(each=4, idle=8)
    assert (samples.planned(kind, 3), samples.at_most(kind, 3)) == (1, 1)


def made(*tries: tuple[str, bool], no_room: bool = False) -> list[Try]:
    now = datetime.now(UTC)
    return [
        Try(sample=n, profile=profile, ended_at=now if ended else None, no_room=no_room)
        for n, (profile, ended) in enumerate(tries)
    ]


@pytest.mark.parametrize(
    ("tries", "wanted", "place"),
    [
        ([], 1, Place(0, 0)),
        (made(("a", True)), 1, None),
        (made(("a", True)), 2, Place(1, 1)),
        (made(("a", False)), 2, Place(0, 0)),
        (made(("a", True), ("a", False)), 2, Place(1, 1)),
        (made(("a", True), ("a", False)), 1, None),
        (made(("a", True), no_room=True), 2, None),
        (made(("b", True), ("b", True)), 2, Place(2, 0)),
        (made(("b", True), ("b", False), ("a", True)), 2, Place(3, 1)),
    ],
)
def test_which_is_next(tries, wanted, place):
    assert following(tries, "a", wanted) == place


def test_where_a_failed_run_goes():
    cascade = Cascade(("small", "middle", "large"))
    assert [cascade.after(profile) for profile in ("small", "middle", "large", "other")] == [
        "middle",
        "large",
        None,
        None,
    ]
    assert Cascade().after("small") is None
