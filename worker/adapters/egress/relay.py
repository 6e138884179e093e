"""Bytes between two sockets, both ways, with half-close, until both sides ended or a limit did."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_CHUNK = 1 << 16


class LimitReached(Exception):
    """Which limit ended a connection, in words."""


@dataclass
class _Way:
    """One direction. It reads on only when what it read before is written: neither side can fill our memory."""

    source: socket.socket
    sink: socket.socket
    left: int | None = None  # bytes it may still carry; None: no end
    pending: bytearray = field(default_factory=bytearray)
    ended: bool = False  # nothing more will be read
    closed: bool = False  # and the sink was told so


def relay(
    client: socket.socket,
    upstream: socket.socket,
    *,
    first: bytes,
    body: int | None,
    count: Callable[[int], None],
    idle: float,
    deadline: float,
) -> None:
    """Carry `first` and what follows to `upstream`, and its answer back. `body` bounds what the client may send
    (None: a tunnel, not bounded); `count` is told of every byte read and may raise LimitReached, which ends it.
    LimitReached too after `idle` seconds without a byte, or past `deadline` (time.monotonic())."""
    there = _Way(client, upstream, left=body, pending=bytearray(first))
    back = _Way(upstream, client)
    if body == 0:
        there.ended = True
    for side in (client, upstream):
        side.setblocking(False)
    with selectors.DefaultSelector() as selector:
        while not back.closed or (body is None and not there.closed):
            _finish(there, half_close=body is None)
            _finish(back, half_close=True)
            wanted = _wanted(there, back)
            if not wanted:
                return
            _register(selector, wanted)
            left = min(idle, deadline - time.monotonic())
            ready = selector.select(max(left, 0.0))
            if not ready:
                raise LimitReached("took too long" if deadline <= time.monotonic() else "nothing came for too long")
            for key, events in ready:
                for way in (there, back):
                    if events & selectors.EVENT_WRITE and way.sink is key.fileobj and way.pending:
                        del way.pending[: way.sink.send(way.pending)]
                    if events & selectors.EVENT_READ and way.source is key.fileobj and _reads(way):
                        _read(way, count)


def _reads(way: _Way) -> bool:
    return not way.ended and not way.pending


def _read(way: _Way, count: Callable[[int], None]) -> None:
    try:
        data = way.source.recv(_CHUNK if way.left is None else min(_CHUNK, way.left))
    except BlockingIOError:
        return
    if not data:
        way.ended = True
        return
    count(len(data))
    way.pending += data
    if way.left is not None:
        way.left -= len(data)
        way.ended = way.left == 0


def _finish(way: _Way, *, half_close: bool) -> None:
    if way.ended and not way.pending and not way.closed:
        way.closed = True
        if half_close:
            way.sink.shutdown(socket.SHUT_WR)


def _wanted(*ways: _Way) -> dict[socket.socket, int]:
    wanted: dict[socket.socket, int] = {}
    for way in ways:
        if way.pending:
            wanted[way.sink] = wanted.get(way.sink, 0) | selectors.EVENT_WRITE
        elif _reads(way):
            wanted[way.source] = wanted.get(way.source, 0) | selectors.EVENT_READ
    return wanted


def _register(selector: selectors.DefaultSelector, wanted: dict[socket.socket, int]) -> None:
    for key in list(selector.get_map().values()):
        if key.fileobj not in wanted:
            selector.unregister(key.fileobj)
    for sock, events in wanted.items():
        if sock in selector.get_map():
            selector.modify(sock, events)
        else:
            selector.register(sock, events)
