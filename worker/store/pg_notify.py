"""Notices between processes by LISTEN and NOTIFY: sent with a transaction's commit, heard by one thread per process.

They only hasten what a heartbeat would find anyway, so a lost one costs time and nothing else. What an operator's hook
is told is another thing: `worker.store.notifications`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from worker.store.session import Store

log = logging.getLogger(__name__)

CHANNEL = "devstral_fix"
LOOK_SECONDS = 0.5  # between looks at whether to stop
LONGEST_PAUSE = 10.0


def about_run(session: Session, run_id: UUID) -> None:
    """Whoever works on the run looks at it again, once this transaction is committed."""
    _notify(session, str(run_id))


def about_everything(session: Session) -> None:
    """Every process looks at all it holds, and at what is switched off, once this transaction is committed."""
    _notify(session, "")


def _notify(session: Session, payload: str) -> None:
    session.execute(select(func.pg_notify(CHANNEL, payload)))


class Listener:
    """Calls `heard` with a run's id, or with None: look at everything. None also comes after each (re)connection, since
    notices may have been missed. Starts at once; `close()` ends it."""

    def __init__(self, store: Store, heard: Callable[[UUID | None], None]) -> None:
        self._store = store
        self._heard = heard
        self._stop = threading.Event()
        self.connected = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pg-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        pause = LOOK_SECONDS
        while not self._stop.is_set():
            try:
                with self._connection() as connection:
                    pause = LOOK_SECONDS
                    self._listen(connection)
            except (psycopg.Error, SQLAlchemyError) as error:
                log.warning("notices_interrupted", extra={"why": type(error).__name__})
            except Exception:
                log.exception("notices_failed")
            self.connected.clear()
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _connection(self) -> psycopg.Connection[Any]:
        """A connection of its own, opened as the pool opens them."""
        pooled = self._store.engine.raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        assert isinstance(connection, psycopg.Connection)
        return connection

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        connection.rollback()
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}")
        self.connected.set()
        self._tell(None)
        while not self._stop.is_set():
            for notice in connection.notifies(timeout=LOOK_SECONDS):
                self._tell(_run_id(notice.payload))
                if self._stop.is_set():
                    return

    def _tell(self, run_id: UUID | None) -> None:
        try:
            self._heard(run_id)
        except Exception as error:  # noqa: BLE001 - the next beat looks again
            log.warning("notice_not_followed", extra={"why": str(error)})


def _run_id(payload: str) -> UUID | None:
    try:
        return UUID(payload)
    except ValueError:
        return None
