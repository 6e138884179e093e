"""One thread per process that keeps all leases held here alive, and tells the holders when one is gone."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, update

from worker.errors import LeaseLost, Transient
from worker.runs.states import Lease
from worker.store.models import Run
from worker.store.session import Store

log = logging.getLogger(__name__)


def owner_name() -> str:
    """This process, for people who look at a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Holding:
    """What a holder sees of its lease: `cancel` interrupts the work, `why` says for what."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.cancel = threading.Event()
        self.lost = False
        self.cancelled_by: str | None = None

    def check(self) -> None:
        if self.lost:
            raise LeaseLost(f"run {self.lease.run_id}: another worker holds it now")


class Heartbeat:
    """Beats every third of the lease. A database hiccup is survived until the lease would have run out anyway."""

    def __init__(self, store: Store, *, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._held: dict[UUID, Holding] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def hold(self, lease: Lease) -> Iterator[Holding]:
        holding = Holding(lease)
        with self._lock:
            self._held[lease.run_id] = holding
        try:
            yield holding
        finally:
            with self._lock:
                if self._held.get(lease.run_id) is holding:
                    del self._held[lease.run_id]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                self.beat()
            except Transient:
                log.warning("heartbeat_missed")
            except Exception:
                log.exception("heartbeat_failed")

    def beat(self) -> None:
        """Renew every lease held here; mark the lost ones and pass on requests to cancel."""
        with self._lock:
            held = list(self._held.values())
        for holding in held:
            lease = holding.lease
            statement = (
                update(Run)
                .where(Run.id == lease.run_id, Run.lease_token == lease.token, Run.lease_owner.is_not(None))
                .values(lease_expires_at=func.now() + timedelta(seconds=self._seconds))
                .returning(Run.cancel_requested)
                .execution_options(synchronize_session=False)
            )
            with self._store.transaction() as session:
                row = session.execute(statement).one_or_none()
            if row is None:
                holding.lost = True
                holding.cancel.set()
            elif row.cancel_requested is not None and not holding.cancel.is_set():
                holding.cancelled_by = row.cancel_requested
                holding.cancel.set()
