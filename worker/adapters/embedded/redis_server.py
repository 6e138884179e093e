"""Real Redis 6.2 from the binary that `fetch_redis` brought, on a loopback port with a password."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.adapters.embedded import place
from worker.adapters.embedded.server import Command, Server
from worker.errors import SettingsError


def binary() -> Path:
    """Where `fetch_redis` puts the binary: inside the environment this Python runs in."""
    return Path(sys.prefix) / "share" / "devstral-fix" / "redis-server"


class RedisServer(Server):
    """Listens on 127.0.0.1 alone; the password is random and stands in no command line. A restart keeps the port
    when it is still free, so that URLs stay valid."""

    name = "Redis"

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        super().__init__(data_dir)
        self._durable = durable

    @property
    def url(self) -> str:
        port, password = self._address()
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def _address(self) -> tuple[int, str]:
        try:
            known = json.loads((self.data_dir / "address").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(f"there is no embedded Redis in {self.data_dir} yet; start it first") from None
        return int(known["port"]), str(known["password"])

    def _ready(self) -> bool:
        port, password = self._address()
        client = redis.Redis(port=port, password=password, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # not listening yet, or still loading its file
            return False
        finally:
            client.close()

    def _prepare(self, base: Path) -> Command:
        if not binary().exists():
            raise SettingsError(
                "embedded Redis is not installed: `make setup` does it; "
                "or set DEVSTRAL_FIX_REDIS_URL, e.g. redis://:…@redis.internal:6379/0"
            )
        program = place.readable_copy(binary().parent, [binary().name], base / "redis") / binary().name
        data = base / "data"
        if not data.exists():
            data.mkdir(mode=0o700)
            place.give(data)
        port, password = 0, secrets.token_urlsafe(24)
        with contextlib.suppress(SettingsError):
            port, password = self._address()
        port = _free_port(port)
        address = self.data_dir / "address"
        address.touch(mode=0o600)
        address.write_text(json.dumps({"port": port, "password": password}), encoding="utf-8")
        settings = [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{data}"',
            'save ""',
            f"appendonly {'yes' if self._durable else 'no'}",
            "appendfsync everysec",
            "daemonize no",
        ]
        return Command([str(program), "-"], stdin="\n".join(settings) + "\n")


def _free_port(wanted: int) -> int:
    """`wanted` when nobody listens there, else any free one. Somebody may take it before Redis does: then the start
    fails with words, and the next one finds another."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise SettingsError("no free port on 127.0.0.1")
