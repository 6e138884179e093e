"""Everything on one machine: embedded Postgres and Redis, the API, a worker of each role, beat."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from worker import compose, logs, terminal
from worker.adapters.embedded import Postgres, RedisServer
from worker.errors import Transient
from worker.exits import Exit
from worker.heartbeat import owner_name
from worker.listening import can_listen
from worker.migrate import migrate
from worker.observe.exposition import address
from worker.runs import draining
from worker.servers import Servers, announced
from worker.settings import PREFIX, Settings
from worker.store.session import Store
from worker.supervisor import Child, Supervisor

ROLES = ("default", "cpu", "gpu")


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


def children(port: int, *, log_dir: Path | None = None) -> list[Child]:
    """The processes of one machine, in the order they start."""
    programs = [("api", ["serve", "--port", str(port)])]
    programs += [(role, ["work", "--role", role]) for role in ROLES]
    programs += [("beat", ["beat"])]
    return [Child(name, args, None if log_dir is None else log_dir / f"{name}.log") for name, args in programs]


def listening(children: Sequence[Child], listen: str | None) -> list[Child]:
    """The same children, each showing its metrics at a port of its own: the first at `listen`, the others after it."""
    if listen is None:
        return list(children)
    host, first = address(listen)
    host = f"[{host}]" if ":" in host else host
    for port, child in enumerate((child for child in children if child.name != "beat"), first):
        child.env = {PREFIX + "METRICS_LISTEN": f"{host}:{port}"}
    return list(children)


def check(settings: Settings, port: int) -> None:
    """Everything the processes will need and can be known before: one clear line instead of workers that die."""
    compose.make_forges(settings)
    compose.make_egress(settings)
    with ExitStack() as stack:
        compose.make_notifier(settings, stack)
    can_listen("127.0.0.1", port, named="--port")
    for child in listening(children(port), settings.metrics_listen):
        if (listen := child.env.get(PREFIX + "METRICS_LISTEN")) is not None:
            can_listen(*address(listen), named=f"{PREFIX}METRICS_LISTEN, for {child.name}")
    compose.check_model(settings)
    with tempfile.TemporaryDirectory(prefix="devstral-fix-check-") as scratch:
        repositories = compose.make_repositories(Path(scratch))
        compose.make_sandbox(settings, Path(scratch), repositories)


def up(settings: Settings, *, port: int) -> Exit:
    """Run until SIGINT or SIGTERM; returns the exit status: done after an orderly stop, else that of the process that
    can't run."""
    logs.configure(settings.log_level)
    check(settings, port)
    terminal.line(f"isolation={settings.isolation.value}; model {settings.need('model')}", err=True)
    data_dir = settings.data_dir.resolve()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        servers = stack.enter_context(embedded_servers(data_dir))
        stack.enter_context(announced(data_dir, servers))
        env = {
            **os.environ,
            PREFIX + "DATABASE_URL": servers.database_url,
            PREFIX + "REDIS_URL": servers.redis_url,
            PREFIX + "DATA_DIR": str(data_dir),
            PREFIX + "ISOLATION": settings.isolation.value,
        }
        terminal.line(f"webhooks: http://127.0.0.1:{port}/webhooks/github (stop with Ctrl-C)", err=True)
        # Longer than a worker takes to end by itself, whatever hangs in it.
        grace = settings.shutdown_grace_seconds + 15
        programs = listening(children(port), settings.metrics_listen)
        for child in programs:
            for listen in child.env.values():
                terminal.line(f"metrics of {child.name}: http://{listen}/metrics", err=True)
        store = stack.enter_context(closing(Store(servers.database_url, pool_size=1)))

        def wanted(pid: int) -> bool:
            """A worker that was drained to stop is not started again."""
            try:
                with store.transaction() as session:
                    return not draining.ended_for_good(session, owner_name(pid))
            except Transient:
                return True

        with Supervisor(programs, env=env, cwd=Path.cwd(), grace=grace, gave_up=stop.set, wanted=wanted) as supervisor:
            stop.wait()
    if supervisor.refused is None:
        return Exit.DONE
    terminal.line(f"devstral-fix: {supervisor.refused}", err=True)
    return supervisor.refused.exit
