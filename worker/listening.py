"""Addresses of our own servers, tried before they are needed: one clear line instead of a server that dies."""

from __future__ import annotations

import socket

from worker.errors import AddressUnavailable


def can_listen(host: str, port: int, *, named: str) -> None:
    """AddressUnavailable, which says `named`, when nobody can listen there now: taken, or not this machine's."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was closed lately is no hindrance
            s.bind(where)
            s.listen()
    except OSError as error:
        raise AddressUnavailable(f"{named}: {host}:{port} can't be had: {error.strerror or error}") from error
