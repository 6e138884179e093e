"""A repository's issues, page by page, with GitHub failing on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from agent.triage.backlog import BacklogIssue
from worker.errors import ForgeUnavailable
from worker.stages.forge import BacklogPage
from worker.triage.listing import TRIES, listed
from worker.triage.notebook import Notebook

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Pages:
    """`issues` in pages of a hundred; `failing` maps a page to the errors it raises first."""

    def __init__(self, count: int, failing: dict[int, list[Exception]] | None = None) -> None:
        self.issues = [BacklogIssue(number=n, title=f"t{n}") for n in range(1, count + 1)]
        self.failing = failing or {}
        self.asked: list[int] = []

    def backlog(self, page, *, labels, since):
        self.asked.append(page)
        if self.failing.get(page):
            raise self.failing[page].pop(0)
        part = self.issues[(page - 1) * 100 : page * 100]
        return BacklogPage(issues=tuple(part), more=len(part) == 100)


def numbers(pages, notebook=None, *, now=NOW, labels=(), limit=None, cancel=None):
    found = listed(pages, notebook, labels=labels, since=None, limit=limit, now=lambda: now, cancel=cancel or Event())
    return [issue.number for issue in found]


def notebook(path):
    return Notebook(path, repository="acme/widgets", model="m", prompt="p")


def down(seconds=0.0):
    return ForgeUnavailable("502", retry_after=seconds)


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (99, 1), (100, 2), (1_150, 12)])
def test_every_page_is_asked_for_once(count, pages):
    asked = Pages(count)
    assert numbers(asked) == list(range(1, count + 1))
    assert asked.asked == list(range(1, pages + 1))


def test_github_failing_on_page_seven_of_twelve_once():
    assert numbers(Pages(1_150, {7: [down()]})) == list(range(1, 1_151))


def test_github_failing_on_page_seven_for_good_loses_no_page(tmp_path):
    first = Pages(1_150, {7: [down()] * TRIES})
    with notebook(tmp_path / "kept") as kept, pytest.raises(ForgeUnavailable):
        numbers(first, kept)
    assert first.asked == [1, 2, 3, 4, 5, 6, *[7] * TRIES]
    second = Pages(1_150)
    with notebook(tmp_path / "kept") as kept:
        assert numbers(second, kept, now=NOW + timedelta(minutes=59)) == list(range(1, 1_151))
    assert second.asked == [7, 8, 9, 10, 11, 12]
    third = Pages(1_151)
    with notebook(tmp_path / "kept") as kept:
        assert numbers(third, kept, now=NOW + timedelta(minutes=59)) == list(range(1, 1_152))
    assert third.asked[0] == 1, "a listing that was whole is old news"


@pytest.mark.parametrize("changes", [{"now": NOW + timedelta(minutes=61)}, {"labels": ["bug"]}])
def test_an_old_listing_or_one_of_others_is_begun_anew(tmp_path, changes):
    with notebook(tmp_path / "kept") as kept, pytest.raises(ForgeUnavailable):
        numbers(Pages(300, {2: [down()] * TRIES}), kept)
    again = Pages(300)
    with notebook(tmp_path / "kept") as kept:
        assert len(numbers(again, kept, **changes)) == 300
    assert again.asked == [1, 2, 3, 4]


def test_a_wait_that_is_too_long_is_for_people():
    asked = Pages(300, {2: [down(3_600.0)]})
    with pytest.raises(ForgeUnavailable):
        numbers(asked)
    assert asked.asked == [1, 2]


def test_a_limit_ends_it_and_pages_that_overlap_count_once():
    pages = Pages(500)
    assert numbers(pages, limit=150) == list(range(1, 151))
    assert pages.asked == [1, 2]
    pages.issues = [*pages.issues[:100], *pages.issues[98:]]
    assert numbers(pages) == list(range(1, 501))


def test_stopped_between_pages():
    cancel = Event()
    cancel.set()
    pages = Pages(500)
    assert numbers(pages, cancel=cancel) == []
    assert pages.asked == []
