"""One thread per process that keeps all leases held here alive, tells the holders when to stop, and watches that they
do."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from worker.errors import Transient
from worker.holding import Holding, Interruption, Work
from worker.runs.states import Lease
from worker.store import switches
from worker.store.models import Run
from worker.store.session import Store

__all__ = ["Heartbeat", "Holding", "owner_name"]

log = logging.getLogger(__name__)

UNRESPONSIVE_SECONDS = 30.0  # from an interruption until work that did not come back is given up


def owner_name() -> str:
    """This process, for people who look at a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Heartbeat:
    """Beats every third of the lease. A database hiccup is survived until the lease would have run out anyway."""

    def __init__(self, store: Store, *, seconds: float, unresponsive: float = UNRESPONSIVE_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._unresponsive = unresponsive
        self._work: list[Work] = []
        self._also: list[Callable[[], None]] = []
        self._ending = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._poke = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def hold(self, lease: Lease, *, stage: str = "run", seconds: float | None = None) -> Iterator[Holding]:
        """Keep a lease alive while the context is open; `seconds` is how long that may be (`Holding.limit`)."""
        holding = Holding(lease, stage)
        with self._registered(holding, seconds):
            yield holding

    @contextmanager
    def watch(
        self,
        stage: str,
        *,
        seconds: float,
        run_id: UUID | None = None,
        wanted: Callable[[Session], bool] = lambda _: True,
    ) -> Iterator[Work]:
        """The same for work without a lease; it is interrupted once it is no longer `wanted`, too."""
        work = Work(stage, run_id, wanted=wanted)
        with self._registered(work, seconds):
            yield work

    @contextmanager
    def _registered(self, work: Work, seconds: float | None) -> Iterator[None]:
        if seconds is not None:
            work.limit(seconds)
        with self._lock:
            self._work.append(work)
            if self._ending:
                work.interrupt(Interruption.SHUTDOWN)
        self._poke.set()
        try:
            yield
        finally:
            with self._lock:
                self._work.remove(work)

    def also(self, action: Callable[[], None]) -> None:
        """Call `action` with every beat, after the leases."""
        self._also.append(action)

    def held(self) -> list[Work]:
        with self._lock:
            return list(self._work)

    def interrupt_all(self) -> None:
        """The process ends: whatever runs is broken off, and so is whatever still begins."""
        with self._lock:
            self._ending = True
            for work in self._work:
                work.interrupt(Interruption.SHUTDOWN)

    def close(self) -> None:
        self._stop.set()
        self._poke.set()
        self._thread.join(5)

    def _run(self) -> None:
        period = self._seconds / 3
        due = time.monotonic() + period
        while not self._stop.is_set():
            self._poke.wait(max(0.0, min(due, self._next_alarm()) - time.monotonic()))
            self._poke.clear()
            if self._stop.is_set():
                return
            self.guard()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + period
            try:
                self.beat()
            except Transient:
                log.warning("heartbeat_missed")
            except Exception:
                log.exception("heartbeat_failed")

    def beat(self) -> None:
        """Renew every lease held here; mark the lost ones and pass on requests to cancel."""
        for work in self.held():
            self._look(work)
        for action in self._also:
            action()

    def look(self, run_id: UUID | None) -> None:
        """The same at once, for one run, or for everything held here."""
        for work in self.held():
            if run_id is None or work.run_id == run_id or not isinstance(work, Holding):
                self._look(work)
        if run_id is None:
            for action in self._also:
                action()

    def _look(self, work: Work) -> None:
        if work.abandoned or work.why is Interruption.LOST:
            return
        if not isinstance(work, Holding):
            with self._store.transaction() as session:
                wanted = work.wanted(session)
            if not wanted:
                work.interrupt(Interruption.LOST)
            return
        lease = work.lease
        statement = (
            update(Run)
            .where(Run.id == lease.run_id, Run.lease_token == lease.token, Run.lease_owner.is_not(None))
            .values(lease_expires_at=func.now() + timedelta(seconds=self._seconds))
            .returning(Run.cancel_requested, switches.call_back())
            .execution_options(synchronize_session=False)
        )
        with self._store.transaction() as session:
            row = session.execute(statement).one_or_none()
        if row is None:
            work.interrupt(Interruption.LOST)
            return
        work.call_back = row[1]
        if row[0] is not None and work.cancelled_by is None:
            work.cancelled(row[0])

    def _next_alarm(self) -> float:
        """When `guard` has something to do."""
        times = [
            work.deadline if work.why is None else work.interrupted_at + self._unresponsive
            for work in self.held()
            if not work.abandoned
        ]
        return min(times, default=float("inf"))

    def guard(self) -> None:
        """Interrupt what is past its deadline. What does not come back after any interruption is given up: its lease is
        left to run out, so that the sweep takes the run over, and its thread is lost to this process."""
        now = time.monotonic()
        for work in self.held():
            if work.why is None and now >= work.deadline:
                log.warning("deadline_passed", extra={"stage": work.stage, "run_id": work.run_id})
                work.interrupt(Interruption.DEADLINE)
            elif not work.abandoned and now >= work.interrupted_at + self._unresponsive:
                work.abandoned = True
                log.error(
                    "alarm_work_hangs",
                    extra={"stage": work.stage, "run_id": work.run_id, "interrupted_for": work.why},
                )
