"""The loopback HTTP server under the double's parts: keep-alive, chunked bodies, one write per answer, clean stop."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """What a client sent. `path` is the request target with its query; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def bare_path(self) -> str:
        return self.path.partition("?")[0]

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} when it is anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Reply:
    """What is answered. `drop` closes the connection without a word."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    drop: bool = False

    @classmethod
    def of(cls, status: int, value: object, headers: Headers = ()) -> Reply:
        body = b"" if value is None else json.dumps(value).encode()
        return cls(status, (("Content-Type", "application/json; charset=utf-8"), *headers), body)


class LoopbackServer(ThreadingHTTPServer):
    """Serves `answer` on a free port of 127.0.0.1 from its own threads, from construction until `stop()`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str, answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # wakes the threads of idle keep-alive connections

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that hangs up is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackServer

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.answer(Request(self.command, self.path, headers, self._body()))
        if reply.drop:
            self.close_connection = True
            return
        lines = [f"HTTP/1.1 {reply.status} {responses.get(reply.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in reply.headers if name.lower() != "content-length"]
        lines.append(f"Content-Length: {len(reply.body)}")
        payload = b"" if self.command == "HEAD" else reply.body
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + payload)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []  # git sends a large push in chunks
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  (names given by http.server)

    def log_message(self, *_: object) -> None:
        """Quiet: what matters is in the request log."""
