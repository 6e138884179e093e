"""Real Postgres and real Redis on this machine, without Docker or root: for `up`, the demo and the tests."""

from worker.adapters.embedded.postgres import Postgres
from worker.adapters.embedded.redis_server import RedisServer

__all__ = ["Postgres", "RedisServer"]
