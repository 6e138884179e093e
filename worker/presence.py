"""This process's row in `workers`: made at the start, touched with every beat, closed at the end; and what is asked of
the process there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from worker.errors import Transient
from worker.gates import Room
from worker.runs import draining, workforce
from worker.store.operations import Then
from worker.store.session import Store

log = logging.getLogger(__name__)


class Presence:
    """A gate, too: there is no room while the worker is asked to drain."""

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        role: str,
        profile: str,
        idle: Callable[[], bool] = lambda: True,
        end: Callable[[Then], None] = lambda _: None,
        **described: Any,
    ) -> None:
        """`described` is what else `workforce.register` takes. `idle` says whether this process holds no work; `end` is
        called, once, when it was drained and told to end. DatabaseUnavailable when the row can't be made."""
        self._store = store
        self._name = name
        self._idle = idle
        self._end = end
        self._draining = threading.Event()
        self._ending = False
        self._room = Room()
        with store.transaction() as session:
            drain = self._inherited(session, role, profile)
            workforce.register(session, name, role=role, profile=profile, drain=drain, **described)
        if drain:
            log.info("drain_taken_over", extra={"by": drain["drain_requested_by"]})

    def _inherited(self, session: Session, role: str, profile: str) -> dict[str, Any]:
        host, _, _ = self._name.rpartition(":")
        for name in draining.left_over(session, host=host, role=role, profile=profile):
            if name == self._name or not Path("/proc", name.rpartition(":")[2]).exists():
                return draining.taken_over(session, name)
        return {}

    def opened(self, model: str) -> None:
        """What this worker serves."""
        with self._store.transaction() as session:
            workforce.opened(session, self._name, model=model)

    def ready(self) -> None:
        """It takes messages from now on."""
        with self._store.transaction() as session:
            workforce.ready(session, self._name)

    def room(self) -> bool:
        return not self._draining.is_set()

    def when_room(self, action: Callable[[], None]) -> None:
        self._room.add(action)

    def touch(self) -> None:
        """Say that this process lives, and do what is asked of it."""
        with self._store.transaction() as session:
            workforce.touch(session, self._name)
            orders = draining.orders(session, self._name)
        if orders.draining is not self._draining.is_set():
            log.info("draining" if orders.draining else "drain_undone")
            if orders.draining:
                self._draining.set()
            else:
                self._draining.clear()
                self._room.tell()
        if orders.then is not Then.STAY and not self._ending and (orders.overdue or self._idle()):
            with self._store.transaction() as session:
                then = draining.begin_end(session, self._name)
            if then is not None:
                self._ending = True
                self._end(then)

    def close(self, failure: str | None = None) -> None:
        """`failure`: why it ends, where nobody asked for that."""
        try:
            with self._store.transaction() as session:
                workforce.stop(session, self._name, failure=failure)
        except Transient:
            log.warning("end_not_recorded")
