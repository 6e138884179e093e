"""What commands share: settings, one transaction, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.settings import Settings

EXIT_REFUSED = 3  # it could not run: a setting, the machine, the model server
EXIT_UNSOLVED = 4  # it ran to its end, and the result is not a fix (2 is wrong usage)


def settings(**overrides: Any) -> Settings:
    return Settings.load(**{k: v for k, v in overrides.items() if v is not None})


def database_url() -> str:
    """The setting, or what an `up` that runs over the same data directory uses."""
    from worker.up import running_servers

    here = settings()
    servers = running_servers(here.data_dir) if here.database_url is None else None
    return here.need("database_url") if servers is None else servers.database_url


def send(*wakes: Any) -> None:
    """Wake the service, where Redis can be found; without it the sweep does the same later."""
    from worker.queue import Publisher, make_app
    from worker.up import running_servers

    here = settings()
    servers = running_servers(here.data_dir) if here.redis_url is None else None
    if here.redis_url is None and servers is None:
        return
    publisher = Publisher(make_app(here.need("redis_url") if servers is None else servers.redis_url))
    for wake in wakes:
        publisher.send(wake)
    publisher.close()


def in_transaction(action: Callable[[Any], Any]) -> Any:
    from worker.store.session import Store

    store = Store(database_url(), pool_size=1)
    try:
        with store.transaction() as session:
            return action(session)
    finally:
        store.close()
