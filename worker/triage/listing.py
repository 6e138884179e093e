"""The open issues of a repository, page by page; a listing that was cut off goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from threading import Event
from typing import Protocol

from agent.triage.backlog import BacklogIssue
from worker.errors import ForgeUnavailable
from worker.stages.forge import BacklogPage
from worker.triage.notebook import Listed, Notebook

TRIES = 4  # of one page, with growing pauses between them
LONGEST_PAUSE = 60.0  # seconds; who asks for more is come back to by hand
STILL_GOOD = timedelta(hours=1)  # how old the beginning of a listing may be when its rest is fetched


class Pages(Protocol):
    def backlog(self, page: int, *, labels: Sequence[str], since: datetime | None) -> BacklogPage: ...


def listed(
    forge: Pages,
    notebook: Notebook | None,
    *,
    labels: Sequence[str],
    since: datetime | None,
    limit: int | None,
    now: Callable[[], datetime],
    cancel: Event,
) -> list[BacklogIssue]:
    """Each issue once, the oldest first. ForgeUnavailable names the page that GitHub did not give."""
    found: dict[int, BacklogIssue] = {}
    of = f"{sorted(labels)} {since}"
    begun = [] if notebook is None else _begun(notebook.listed, of, now())
    for one in _pages(forge, notebook, begun, of, labels=labels, since=since, now=now, cancel=cancel):
        # An issue that is closed meanwhile moves the others up, so one may stand on two pages, or, rarely, on none.
        found |= {issue.number: issue for issue in one.issues}
        if limit is not None and len(found) >= limit:
            break
    return sorted(found.values(), key=lambda issue: issue.number)[:limit]


def _begun(kept: Sequence[Listed], of: str, now: datetime) -> list[Listed]:
    """A listing that can be gone on with: of the same issues, young, without a gap, and not at its end."""
    whole = [one.page for one in kept] == list(range(1, len(kept) + 1))
    fits = all(one.of == of and now - one.at < STILL_GOOD for one in kept)
    return list(kept) if kept and whole and fits and kept[-1].listed.more else []


def _pages(
    forge: Pages,
    notebook: Notebook | None,
    begun: Sequence[Listed],
    of: str,
    *,
    labels: Sequence[str],
    since: datetime | None,
    now: Callable[[], datetime],
    cancel: Event,
) -> Iterator[BacklogPage]:
    yield from (one.listed for one in begun)
    number = len(begun)
    more = True
    while more and not cancel.is_set():
        number += 1
        page = _page(forge, number, labels, since, cancel)
        if notebook is not None:
            notebook.keep_page(Listed(of=of, page=number, at=now(), listed=page))
        yield page
        more = page.more


def _page(forge: Pages, number: int, labels: Sequence[str], since: datetime | None, cancel: Event) -> BacklogPage:
    for attempt in range(1, TRIES + 1):
        try:
            return forge.backlog(number, labels=labels, since=since)
        except ForgeUnavailable as error:
            wait = error.retry_after if error.retry_after is not None else 2.0**attempt
            if attempt == TRIES or wait > LONGEST_PAUSE or cancel.wait(wait):
                raise
    raise AssertionError("the last try returns or raises")
