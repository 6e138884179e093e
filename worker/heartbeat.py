"""One thread per process that keeps all leases held here alive, and tells the holders when one is gone.

A lease is measured twice: by the database, whose word decides who may write, and by this process's own clock, which
only ever makes a holder stop. A second thread watches that clock, since the first may be stuck with a database that
does not answer; so nothing goes on in the dark for longer than the lease. No wall clock takes part.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Uuid, bindparam, func, update

from worker.clock import own_clock
from worker.errors import LeaseLost, Transient
from worker.runs.states import Lease
from worker.store.models import Run
from worker.store.session import Store

log = logging.getLogger(__name__)


def owner_name() -> str:
    """This process, for people who look at a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Holding:
    """What a holder sees of its lease: `cancel` interrupts the work, `lost` and `cancelled_by` say why."""

    def __init__(self, lease: Lease, until: float) -> None:
        self.lease = lease
        self.until = until  #: by `own_clock`; renewed with every beat
        self.cancel = threading.Event()
        self.lost: str | None = None
        self.cancelled_by: str | None = None

    def check(self) -> None:
        if self.lost is not None:
            raise LeaseLost(f"run {self.lease.run_id}: {self.lost}")

    def lose(self, why: str) -> None:
        self.lost = why
        self.cancel.set()


class Heartbeat:
    """Beats every third of the lease, once for all. A database hiccup is survived until the leases would have run out
    anyway. While `healthy` says no, nothing is renewed: what a dead engine holds goes on elsewhere."""

    def __init__(self, store: Store, *, seconds: float, healthy: Callable[[], bool] = lambda: True) -> None:
        self._store = store
        self._seconds = seconds
        self._healthy = healthy
        self._held: dict[UUID, Holding] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._beats, name="heartbeat", daemon=True),
            threading.Thread(target=self._watch, name="lease-clock", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def only_while(self, healthy: Callable[[], bool]) -> None:
        """Renew only while `healthy` says yes, from now on."""
        self._healthy = healthy

    @contextmanager
    def hold(self, lease: Lease) -> Iterator[Holding]:
        holding = Holding(lease, lease.since + self._seconds)
        with self._changed:
            self._held[lease.run_id] = holding
            self._changed.notify_all()
        try:
            yield holding
        finally:
            with self._changed:
                if self._held.get(lease.run_id) is holding:
                    del self._held[lease.run_id]

    def close(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(5)

    def _beats(self) -> None:
        wait = self._seconds / 3
        while not self._stop.wait(wait):
            wait = self._seconds / 3
            try:
                self.beat()
            except Transient:
                log.warning("heartbeat_missed")
                wait = self._seconds / 10
            except Exception:
                log.exception("heartbeat_failed")

    def beat(self) -> None:
        """Renew every lease held here, in one statement; mark the lost ones and pass on requests to cancel."""
        if not self._healthy():
            log.error("heartbeat_withheld", extra={"why": "what does the work here is dead"})
            return
        with self._changed:
            held = [holding for holding in self._held.values() if holding.lost is None]
        if not held:
            return
        until = own_clock() + self._seconds  # taken before the database takes its own
        with self._store.transaction() as session:
            renewed = {
                row.id: row
                for row in session.execute(
                    _RENEW.values(lease_expires_at=func.now() + timedelta(seconds=self._seconds)),
                    {"ids": [h.lease.run_id for h in held], "tokens": [h.lease.token for h in held]},
                )
            }
        for holding in held:
            row = renewed.get(holding.lease.run_id)
            if row is None:
                holding.lose("another worker holds it now")
            else:
                holding.until = until
                if row.cancel_requested is not None and not holding.cancel.is_set():
                    holding.cancelled_by = row.cancel_requested
                    holding.cancel.set()

    def _watch(self) -> None:
        with self._changed:
            while not self._stop.is_set():
                now = own_clock()
                kept = [holding for holding in self._held.values() if holding.lost is None]
                for holding in kept:
                    if holding.until <= now:
                        holding.lose("it could not be renewed for as long as its lease")
                        log.error("lease_ran_out", extra={"run_id": holding.lease.run_id})
                left = min((holding.until - now for holding in kept if holding.lost is None), default=None)
                self._changed.wait(left)


# One statement, however many are held: each lease by its run and its token.
_HELD = (
    func.unnest(bindparam("ids", type_=ARRAY(Uuid)), bindparam("tokens", type_=ARRAY(BigInteger)))
    .table_valued("id", "token")
    .render_derived(name="held")
)
_RENEW = (
    update(Run)
    .where(Run.id == _HELD.c.id, Run.lease_token == _HELD.c.token, Run.lease_owner.is_not(None))
    .returning(Run.id, Run.cancel_requested)
    .execution_options(synchronize_session=False)
)
