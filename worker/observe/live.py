"""What the database knows about the queue, as Prometheus metrics: asked when someone fetches them, not more often
than every few seconds, and only of rows that partial indexes hold."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.errors import Transient
from worker.observe.metrics import NAMESPACE
from worker.runs.priorities import Priority
from worker.store.session import Store

log = logging.getLogger(__name__)
FRESH_SECONDS = 5.0
MARGIN = timedelta(minutes=1)  # no transaction that ends a run lasts so long

_QUEUED = text("""
    SELECT profile, priority::text, coalesce(held_reason, 'none'), count(*),
           extract(epoch FROM now() - min(queued_at))::float
    FROM runs WHERE state = 'queued' GROUP BY 1, 2, 3
""")
_LIVE = text("""
    SELECT profile, kind, state, count(*) FROM runs
    WHERE state IN ('queued', 'running', 'concluded') GROUP BY 1, 2, 3
""")
_DELIVERIES = text("""
    SELECT count(*), coalesce(extract(epoch FROM now() - min(received_at)), 0)::float
    FROM deliveries WHERE state = 'received'
""")

_CANCELLED = text("""
    SELECT id, coalesce(outcome, 'none'), kind, profile FROM runs
    WHERE finished_at >= :since AND state = 'cancelled' AND NOT EXISTS (
        SELECT FROM attempts WHERE attempts.run_id = runs.id AND attempts.ending = 'cancelled')
""")
_NOW = text("SELECT now()")
_PROFILES = text("SELECT DISTINCT profile FROM workers")

Family = Callable[[Session], Iterable[Metric]]


def _gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", documentation, labels=labels)


class Queue:
    """The queue's family. What it once showed is shown as 0 when there is none of it, and so are the queues of this
    process's profile and of those that workers serve: a series that goes away can't be told from one that is lost."""

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._queued: set[tuple[str, ...]] = set()
        self._live: set[tuple[str, ...]] = set()

    def __call__(self, session: Session) -> Iterable[Metric]:
        for profile in {self._profile, *session.scalars(_PROFILES)}:
            self._queued |= {(profile, str(priority.value), "none") for priority in Priority}
        found = {tuple(row[:3]): (row[3], row[4]) for row in session.execute(_QUEUED)}
        self._queued |= found.keys()
        depth = _gauge("queue_depth", "Queued runs.", ("profile", "priority", "held"))
        age = _gauge("queue_age_seconds", "Age of the oldest queued run.", ("profile", "priority", "held"))
        for labels in sorted(self._queued):
            count, oldest = found.get(labels, (0, 0.0))
            depth.add_metric(labels, count)
            age.add_metric(labels, oldest)
        states = {tuple(row[:3]): row[3] for row in session.execute(_LIVE)}
        self._live |= states.keys()
        live = _gauge("runs_live", "Runs that have not ended.", ("profile", "kind", "state"))
        for labels in sorted(self._live):
            live.add_metric(labels, states.get(labels, 0))
        return [depth, age, live]


def deliveries(session: Session) -> Iterable[Metric]:
    count, oldest = session.execute(_DELIVERIES).one()
    waiting = _gauge("deliveries_waiting", "Deliveries received and not handled.")
    waiting.add_metric([], count)
    waited = _gauge("deliveries_waiting_age_seconds", "Age of the oldest delivery that was not handled.")
    waited.add_metric([], oldest)
    return [waiting, waited]


class Cancelled:
    """Runs that people cancelled while no worker had them, under the name that workers count their ends by. Counted
    since it was first asked: a run is looked for in the window of the last asking and a margin before it, since its
    time is that of its transaction's beginning."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._seen: set[UUID] = set()
        self._counts: Counter[tuple[str, ...]] = Counter()

    def __call__(self, session: Session) -> Iterable[Metric]:
        now = session.execute(_NOW).scalar_one()
        rows = session.execute(_CANCELLED, {"since": (self._since or now) - MARGIN}).all()
        if self._since is not None:
            self._counts.update(tuple(row[1:]) for row in rows if row.id not in self._seen)
        self._since, self._seen = now, {row.id for row in rows}
        ended = CounterMetricFamily(
            f"{NAMESPACE}_runs_ended",
            "Runs that were cancelled while they waited.",
            labels=["state", "outcome", "kind", "profile"],
        )
        for (outcome, kind, profile), count in sorted(self._counts.items()):
            ended.add_metric(["cancelled", outcome, kind, profile], count)
        return [ended]


class Live(Collector):
    """Asks the database through `families`; what it said is fresh for FRESH_SECONDS, so that many scrapers cost no
    more than one. A database that is away shows as `devstral_fix_database_up 0`."""

    def __init__(self, store: Store, families: Sequence[Family], *, fresh: float = FRESH_SECONDS) -> None:
        self._store = store
        self._families = families
        self._fresh = fresh
        self._lock = threading.Lock()
        self._asked = -float("inf")
        self._said: list[Metric] = []

    def describe(self) -> list[Any]:
        return []  # so that registering asks no database

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._asked >= self._fresh:
                self._said = self._ask()
                self._asked = time.monotonic()
            return self._said

    def _ask(self) -> list[Metric]:
        up = _gauge("database_up", "Whether Postgres answered.")
        try:
            with self._store.transaction() as session:
                found = [metric for family in self._families for metric in family(session)]
        except Transient:
            log.warning("metrics_database_unavailable")
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *found]
