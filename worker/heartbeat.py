"""Keeps all leases held in this process alive, tells the holders when to stop, and watches that they do.

A lease is measured twice: by the database, whose word decides who may write, and by this process's own clock, which
only ever makes a holder stop. A second thread watches that clock and the deadlines, since the first may be stuck with a
database that does not answer; so nothing goes on in the dark for longer than the lease. No wall clock takes part.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Uuid, bindparam, func, update
from sqlalchemy.orm import Session

from worker.clock import own_clock
from worker.errors import Transient
from worker.holding import Holding, Interruption, Work
from worker.runs.states import Lease
from worker.store import switches
from worker.store.models import Run
from worker.store.session import Store

__all__ = ["Heartbeat", "Holding", "owner_name"]

log = logging.getLogger(__name__)

UNRESPONSIVE_SECONDS = 30.0  # from an interruption until work that did not come back is given up


def owner_name(pid: int | None = None) -> str:
    """This process, or another of this host, for people who look at a lease."""
    return f"{socket.gethostname()}:{os.getpid() if pid is None else pid}"


class Heartbeat:
    """Beats every third of the lease, once for all. A database hiccup is survived until the leases would have run out
    anyway. While `healthy` says no, nothing is renewed: what a dead engine holds goes on elsewhere."""

    def __init__(
        self,
        store: Store,
        *,
        seconds: float,
        unresponsive: float = UNRESPONSIVE_SECONDS,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._unresponsive = unresponsive
        self._healthy = healthy
        self._work: list[Work] = []
        self._also: list[Callable[[], None]] = []
        self._ending = False
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

    def also(self, action: Callable[[], None]) -> None:
        """Call `action` with every beat, after the leases."""
        self._also.append(action)

    @contextmanager
    def hold(self, lease: Lease, *, stage: str = "run", seconds: float | None = None) -> Iterator[Holding]:
        """Keep a lease alive while the context is open; `seconds` is how long that may be (`Holding.limit`)."""
        holding = Holding(lease, stage, lease.since + self._seconds)
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
        with self._changed:
            self._work.append(work)
            if self._ending:
                work.interrupt(Interruption.SHUTDOWN)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._work.remove(work)

    def held(self) -> list[Work]:
        with self._changed:
            return list(self._work)

    def interrupt_all(self) -> None:
        """The process ends: whatever runs is broken off, and so is whatever still begins."""
        with self._changed:
            self._ending = True
            for work in self._work:
                work.interrupt(Interruption.SHUTDOWN)
            self._changed.notify_all()

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
        """Renew every lease held here; mark the lost ones and pass on requests to cancel."""
        self.look(None)

    def look(self, run_id: UUID | None) -> None:
        """The same at once, for one run, or for everything held here."""
        if self._healthy():
            kept = [work for work in self.held() if isinstance(work, Holding) and run_id in {None, work.run_id}]
            self._renew([work for work in kept if not work.abandoned and not work.lost])
        else:
            log.error("heartbeat_withheld", extra={"why": "what does the work here is dead"})
        for work in self.held():
            if not isinstance(work, Holding):
                self._ask(work)
        if run_id is None:
            for action in self._also:
                action()

    def _ask(self, work: Work) -> None:
        if work.abandoned or work.lost:
            return
        with self._store.transaction() as session:
            wanted = work.wanted(session)
        if not wanted:
            work.interrupt(Interruption.LOST)

    def _renew(self, held: Sequence[Holding]) -> None:
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
                holding.lose("another worker holds it now, or it is no longer wanted")
                continue
            holding.until = max(holding.until, until)
            holding.call_back = row.call_back
            if row.cancel_requested is not None and holding.cancelled_by is None:
                holding.cancelled(row.cancel_requested)

    def _watch(self) -> None:
        with self._changed:
            while not self._stop.is_set():
                try:
                    self.guard()
                except Exception:  # this thread is the one that stops what can't be renewed: it must live
                    log.exception("guard_failed")
                # Not longer than a beat: a deadline may be moved while this thread waits.
                self._changed.wait(max(0.0, min(self._next_alarm() - time.monotonic(), self._seconds / 3)))

    def _next_alarm(self) -> float:
        """When, by time.monotonic(), `guard` has something to do."""
        times = []
        for work in self._work:
            if not work.abandoned:
                times.append(work.deadline if work.why is None else work.interrupted_at + self._unresponsive)
            if isinstance(work, Holding) and not work.lost:
                times.append(time.monotonic() + work.until - own_clock())
        return min(times, default=float("inf"))

    def guard(self) -> None:
        """Interrupt what is past its deadline, and what could not be renewed for as long as its lease. What does not
        come back after any interruption is given up: its lease is left to run out, so that the sweep takes the run
        over, and its thread is lost to this process."""
        now = time.monotonic()
        for work in self.held():
            if isinstance(work, Holding) and not work.lost and work.until <= own_clock():
                log.error("lease_ran_out", extra={"run_id": work.run_id})
                work.lose("it could not be renewed for as long as its lease")
            if work.why is None and now >= work.deadline:
                log.warning("deadline_passed", extra={"stage": work.stage, "run_id": work.run_id})
                work.interrupt(Interruption.DEADLINE)
            elif not work.abandoned and now >= work.interrupted_at + self._unresponsive:
                work.abandoned = True
                log.error(
                    "alarm_work_hangs",
                    extra={"stage": work.stage, "run_id": work.run_id, "interrupted_for": work.why},
                )


# One statement, however many are held: each lease by its run and its token.
_HELD = (
    func.unnest(bindparam("ids", type_=ARRAY(Uuid)), bindparam("tokens", type_=ARRAY(BigInteger)))
    .table_valued("id", "token")
    .render_derived(name="held")
)
_RENEW = (
    update(Run)
    .where(Run.id == _HELD.c.id, Run.lease_token == _HELD.c.token, Run.lease_owner.is_not(None))
    .returning(Run.id, Run.cancel_requested, switches.call_back().label("call_back"))
    .execution_options(synchronize_session=False)
)
