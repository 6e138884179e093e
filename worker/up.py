"""Everything on one machine: embedded Postgres and Redis, the API, a worker of each role, beat."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.adapters.embedded import Postgres, RedisServer
from worker.migrate import migrate
from worker.settings import PREFIX, Settings
from worker.supervisor import Child, Supervisor

ROLES = ("default", "cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Servers:
    database_url: str
    redis_url: str


@contextmanager
def embedded_servers(data_dir: Path, *, durable: bool = True) -> Iterator[Servers]:
    """Real Postgres and Redis under `data_dir`, migrated, stopped at the end; what they hold stays."""
    with ExitStack() as stack:
        postgres = Postgres(data_dir / "postgres", durable=durable)
        redis = RedisServer(data_dir / "redis")
        stack.callback(postgres.stop)
        url = postgres.start()
        stack.callback(redis.stop)
        redis_url = redis.start()
        migrate(url)
        yield Servers(database_url=url, redis_url=redis_url)


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def children(port: int, *, logs: Path | None = None) -> list[Child]:
    """The processes of one machine, in the order they start."""
    programs = [("api", ["serve", "--port", str(port)])]
    programs += [(role, ["work", "--role", role]) for role in ROLES]
    programs += [("beat", ["beat"])]
    return [Child(name, args, None if logs is None else logs / f"{name}.log") for name, args in programs]


def up(settings: Settings, *, port: int) -> int:
    """Run until SIGINT or SIGTERM; returns 0 after an orderly stop."""
    data_dir = settings.data_dir.resolve()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with embedded_servers(data_dir) as servers:
        env = {
            **os.environ,
            PREFIX + "DATABASE_URL": servers.database_url,
            PREFIX + "REDIS_URL": servers.redis_url,
            PREFIX + "DATA_DIR": str(data_dir),
            PREFIX + "ISOLATION": settings.isolation.value,
        }
        print(f"isolation={settings.isolation.value}; model {settings.need('model')}", file=sys.stderr)
        print(f"webhooks: http://127.0.0.1:{port}/webhooks/github (stop with Ctrl-C)", file=sys.stderr)
        with Supervisor(children(port), env=env, cwd=Path.cwd()):
            stop.wait()
    return 0
