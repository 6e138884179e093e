"""This process's row in `workers`: made at the start, touched with every beat, closed at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from worker.errors import Transient
from worker.gates import Room
from worker.runs import workforce
from worker.store.session import Store

log = logging.getLogger(__name__)


class Presence:
    """A gate, too: there is no room while the worker is asked to drain."""

    def __init__(self, store: Store, name: str, **described: object) -> None:
        """`described` is what `workforce.register` takes. DatabaseUnavailable when the row can't be made."""
        self._store = store
        self._name = name
        self._draining = threading.Event()
        self._room = Room()
        with store.transaction() as session:
            workforce.register(session, name, **described)  # type: ignore[arg-type]

    def ready(self) -> None:
        """It takes messages from now on."""
        with self._store.transaction() as session:
            workforce.ready(session, self._name)

    def room(self) -> bool:
        return not self._draining.is_set()

    def when_room(self, action: Callable[[], None]) -> None:
        self._room.add(action)

    def touch(self) -> None:
        with self._store.transaction() as session:
            draining = workforce.touch(session, self._name)
        if draining is self._draining.is_set():
            return
        log.info("draining" if draining else "drain_undone")
        if draining:
            self._draining.set()
        else:
            self._draining.clear()
            self._room.tell()

    def close(self) -> None:
        try:
            with self._store.transaction() as session:
                workforce.stop(session, self._name)
        except Transient:
            log.warning("end_not_recorded")
