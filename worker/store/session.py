"""Sessions: one transaction per use, committed at the edge, with hooks that run only after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, InternalError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from worker.errors import SettingsError, Transient
from worker.store.models import Delivery


class DatabaseUnavailable(Transient):
    """Postgres did not answer."""


def database_url(url: str) -> URL:
    """`url`, parsed; SettingsError with an example when it is none."""
    try:
        return make_url(url)
    except ArgumentError as error:
        example = "postgresql+psycopg://user:password@127.0.0.1:5432/devstral_fix"
        raise SettingsError(f"DEVSTRAL_FIX_DATABASE_URL is no database URL. Example: {example}") from error


class Store:
    """One per process. `transaction()` commits on success and rolls back on error; nobody else commits."""

    def __init__(self, url: str, *, pool_size: int = 10, pre_ping: bool = True) -> None:
        """`pre_ping` asks each connection whether it is alive before its use, for one round trip; without it the
        first use after a restart of Postgres fails, which a caller that can repeat itself may prefer."""
        self.engine: Engine = create_engine(
            database_url(url),
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=pre_ping,
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
        except InternalError as error:
            if isinstance(error.orig, IdleInTransactionSessionTimeout):  # we were too slow, and Postgres hung up
                raise DatabaseUnavailable(str(error.orig)) from error
            raise

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A transaction without the ORM, for the request path: a session would double a small statement's time."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise DatabaseUnavailable(str(error.orig)) from error

    def warm(self, connections: int) -> None:
        """Open this many connections now, so that the first burst does not wait for them. A database that does not
        answer yet is no error here: the first use says so."""
        with ExitStack() as stack, suppress(OperationalError):
            for _ in range(connections):
                stack.enter_context(self.engine.connect()).execute(select(Delivery.id).limit(1))

    def close(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Run `action` once this session's transaction is durable; never when it rolls back."""

    def run(_: Session) -> None:
        action()

    event.listen(session, "after_commit", run, once=True)
