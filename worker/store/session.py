"""Sessions: one transaction per use, committed at the edge, with hooks that run only after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from worker.errors import Transient


class DatabaseUnavailable(Transient):
    """Postgres did not answer."""


class Store:
    """One per process. `transaction()` commits on success and rolls back on error; nobody else commits."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5, "options": "-c timezone=UTC -c lock_timeout=10s"},
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            raise DatabaseUnavailable(str(error.orig)) from error

    def close(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Run `action` once this session's transaction is durable; never when it rolls back."""

    def run(_: Session) -> None:
        action()

    event.listen(session, "after_commit", run, once=True)
