"""What the database knows about the queue, as Prometheus metrics: asked when someone fetches them, not more often
than every few seconds, and only of rows that partial indexes hold."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.errors import Transient
from worker.observe.metrics import NAMESPACE
from worker.store.session import Store

log = logging.getLogger(__name__)
FRESH_SECONDS = 5.0

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

Family = Callable[[Session], Iterable[Metric]]


def _gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", documentation, labels=labels)


def queue(session: Session) -> Iterable[Metric]:
    depth = _gauge("queue_depth", "Queued runs.", ("profile", "priority", "held"))
    age = _gauge("queue_age_seconds", "Age of the oldest queued run.", ("profile", "priority", "held"))
    for profile, priority, held, count, oldest in session.execute(_QUEUED):
        depth.add_metric([profile, priority, held], count)
        age.add_metric([profile, priority, held], oldest)
    live = _gauge("runs_live", "Runs that have not ended.", ("profile", "kind", "state"))
    for profile, kind, state, count in session.execute(_LIVE):
        live.add_metric([profile, kind, state], count)
    count, oldest = session.execute(_DELIVERIES).one()
    waiting = _gauge("deliveries_waiting", "Deliveries received and not handled.")
    waiting.add_metric([], count)
    waited = _gauge("deliveries_waiting_age_seconds", "Age of the oldest delivery that was not handled.")
    waited.add_metric([], oldest)
    return [depth, age, live, waiting, waited]


class Live(Collector):
    """Asks the database through `families`; what it said is fresh for FRESH_SECONDS, so that many scrapers cost no
    more than one. A database that is away shows as `devstral_fix_database_up 0`."""

    def __init__(self, store: Store, families: Sequence[Family] = (queue,), *, fresh: float = FRESH_SECONDS) -> None:
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
