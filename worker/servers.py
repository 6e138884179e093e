"""Where the embedded servers of an `up` that runs are, for other commands over the same data directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

SERVERS = "servers.json"


@dataclass(frozen=True, kw_only=True)
class Servers:
    database_url: str
    redis_url: str


def running_servers(data_dir: Path) -> Servers | None:
    """The servers of an `up` that runs over `data_dir` now."""
    try:
        return Servers(**json.loads((data_dir / SERVERS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def announced(data_dir: Path, servers: Servers) -> Iterator[None]:
    """Lets commands of the same user find the servers; the file holds their passwords, so it is private."""
    file = data_dir / SERVERS
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(asdict(servers), out)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
