"""A process's metrics over HTTP, for Prometheus to fetch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from worker.errors import AddressUnavailable, SettingsError

log = logging.getLogger(__name__)
_LISTEN = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})")


def address(listen: str) -> tuple[str, int]:
    """`host:port` (or `[v6]:port`), parsed. SettingsError for anything else."""
    found = _LISTEN.fullmatch(listen)
    if found is None or int(found["port"]) > 65535:
        raise SettingsError(
            "DEVSTRAL_FIX_METRICS_LISTEN is no host:port. Example: DEVSTRAL_FIX_METRICS_LISTEN=127.0.0.1:9101"
        )
    return found["host"].strip("[]"), int(found["port"])


@contextmanager
def exposed(registry: CollectorRegistry, listen: str | None) -> Iterator[int | None]:
    """Serve `registry` at `listen` while the context is; the port it got (for port 0), None when `listen` is.

    AddressUnavailable when it can't be had: an operator who asked for metrics should not run without them.
    """
    if listen is None:
        yield None
        return
    host, port = address(listen)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        why = error.strerror or error
        raise AddressUnavailable(f"DEVSTRAL_FIX_METRICS_LISTEN: {listen} can't be had: {why}") from error
    log.info("metrics_exposed", extra={"listen": f"{host}:{server.server_port}"})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
