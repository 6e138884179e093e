"""The way out of a set-up: an HTTP proxy on one unix socket that reaches listed hosts only, and never reads TLS."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from worker.adapters.egress.head import BadRequest, Request, parse
from worker.adapters.egress.policy import Policy
from worker.adapters.egress.relay import LimitReached, relay
from worker.errors import SandboxUnavailable
from worker.stages.ports import Blocked

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Sequence[str]]
_REPORTED = 100  # different refusals that are kept; a stranger may make any number
_END = b"\r\n\r\n"


def resolve(host: str, port: int) -> list[str]:
    """The system's answer. OSError when there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Refused(Exception):
    """`allowed`: not by the policy, but for want of an answer."""

    def __init__(self, status: str, reason: str, *, allowed: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.allowed = allowed


class EgressProxy:
    """Serves from `start` to `close` (or as a context manager), a thread per connection. `path` is a unix socket that
    any uid may connect to: the folder it is in decides who reaches it.

    A name is resolved here, once, and the address that was checked is the one connected to.
    """

    def __init__(self, path: Path, policy: Policy, *, resolve: Resolve = resolve) -> None:
        self._path = path
        self._policy = policy
        self._resolve = resolve
        self._slots = threading.BoundedSemaphore(policy.caps.connections)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._closing = False
        self._bytes: Counter[str] = Counter()
        self._blocked: Counter[Blocked] = Counter()
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        """What was refused or cut off so far, each once, in the order it first happened."""
        with self._lock:
            return tuple(self._blocked)

    @property
    def bytes_by_host(self) -> dict[str, int]:
        with self._lock:
            return dict(self._bytes)

    def start(self) -> None:
        """SandboxUnavailable when the socket can't be made."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            # Through its folder's descriptor, since an address may have about 100 bytes only.
            folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                listener.bind(f"/proc/self/fd/{folder}/{self._path.name}")
            finally:
                os.close(folder)
            self._path.chmod(0o666)
            listener.listen(128)
        except OSError as e:
            listener.close()
            raise SandboxUnavailable(f"the egress proxy's socket could not be made: {e}") from e
        self._listener = listener
        self._spawn(self._accept, listener)

    def close(self) -> None:
        """Ends every connection; nothing is served or running afterwards."""
        with self._lock:
            self._closing = True
            ending = [*self._open, *([self._listener] if self._listener is not None else [])]
        for sock in ending:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._slots_free()
        for thread in list(self._threads):
            thread.join(timeout=self._policy.caps.connect_seconds + 5)
        if self._listener is not None:
            self._listener.close()
        self._path.unlink(missing_ok=True)

    def _slots_free(self) -> None:
        with suppress(ValueError):  # wakes the accepting thread where it waits for a slot
            self._slots.release()

    def _spawn(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        def body() -> None:
            try:
                target(sock)
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=body, name="egress", daemon=True)
        with self._lock:  # started before `close` can see it: a thread that never ran can't be waited for
            self._threads.add(thread)
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            self._slots.acquire()  # the rest wait in the kernel's queue
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            if self._closing:
                client.close()
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        started = time.monotonic()
        host, port, verdict, carried = "", 0, "served", 0
        with contextlib.ExitStack() as stack:
            stack.callback(self._slots_free)
            try:
                self._hold(stack, client)
                request, early = self._request(client, started)
                host, port = request.host, request.port
                upstream = self._connect(request)
                self._hold(stack, upstream)
                carried = self._carry(client, upstream, request, early, started)
            except _Refused as e:
                verdict = str(e)
                if host:
                    self._note(host, port, verdict, allowed=e.allowed)
                _answer(client, e.status, verdict)
            except LimitReached as e:
                verdict = str(e)
                self._note(host, port, verdict)
            except OSError as e:
                verdict = f"broke off: {e.strerror or type(e).__name__}"
            finally:
                log.info(
                    "egress",
                    extra={"host": host, "port": port, "bytes": carried, "verdict": verdict,
                           "seconds": round(time.monotonic() - started, 3)},
                )  # fmt: skip

    def _hold(self, stack: contextlib.ExitStack, sock: socket.socket) -> None:
        """`sock` is closed with `stack`, and ended by `close`."""

        def release() -> None:
            with self._lock:
                self._open.discard(sock)
            sock.close()

        with self._lock:
            self._open.add(sock)
            closing = self._closing
        stack.callback(release)
        if closing:
            raise OSError("the proxy is closing")

    def _request(self, client: socket.socket, started: float) -> tuple[Request, bytes]:
        """The request and what came after its head. A client that dawdles, or sends too much, is refused."""
        caps = self._policy.caps
        data = bytearray()
        while _END not in data:
            left = started + caps.head_seconds - time.monotonic()
            if left <= 0:
                raise _Refused("408 Request Timeout", "the request's head took too long")
            if len(data) > caps.head_bytes:
                raise _Refused("431 Request Header Fields Too Large", "the request's head is too large")
            client.settimeout(left)
            try:
                more = client.recv(4096)
            except TimeoutError:
                continue
            if not more:
                raise OSError("ended before a request was there")
            data += more
        head, _, early = bytes(data).partition(_END)
        if len(head) > caps.head_bytes:
            raise _Refused("431 Request Header Fields Too Large", "the request's head is too large")
        try:
            return parse(head), early
        except BadRequest as e:
            raise _Refused("400 Bad Request", str(e)) from e

    def _connect(self, request: Request) -> socket.socket:
        """A connection to an address that was checked. _Refused says why there is none."""
        host, port = request.host, request.port
        if (reason := self._policy.refuses(host, port)) is not None:
            raise _Refused("403 Forbidden", reason)
        self._count(host, 0)
        try:
            found = self._resolve(host, port)
        except OSError as e:
            raise _Refused("502 Bad Gateway", f"{host} can't be resolved", allowed=True) from e
        reasons = {ip: self._policy.refuses_address(host, port, ip) for ip in found}
        allowed = [ip for ip, refusal in reasons.items() if refusal is None]
        if not allowed:
            raise _Refused("403 Forbidden", next(filter(None, reasons.values()), "has no address"))
        for ip in allowed[:4]:
            with suppress(OSError):
                return socket.create_connection((ip, port), timeout=self._policy.caps.connect_seconds)
        raise _Refused("502 Bad Gateway", f"{host} can't be connected to", allowed=True)

    def _carry(
        self, client: socket.socket, upstream: socket.socket, request: Request, early: bytes, started: float
    ) -> int:
        """Bytes carried, both ways."""
        carried = 0

        def count(size: int) -> None:
            nonlocal carried
            carried += size
            self._count(request.host, size)

        if request.tunnel:
            client.settimeout(self._policy.caps.idle_seconds)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            early = early[: request.body]  # a second request on this connection is not served
        count(len(early))
        relay(
            client,
            upstream,
            first=request.forward + early,
            body=None if request.body is None else request.body - len(early),
            count=count,
            idle=self._policy.caps.idle_seconds,
            deadline=started + self._policy.caps.total_seconds,
        )
        return carried

    def _count(self, host: str, size: int) -> None:
        """Book bytes. LimitReached once a host's or all hosts' share is used up."""
        caps = self._policy.caps
        with self._lock:
            self._bytes[host] += size
            if self._bytes[host] > caps.bytes_per_host:
                raise LimitReached(f"more than {caps.bytes_per_host} bytes with one host")
            if self._bytes.total() > caps.bytes_total:
                raise LimitReached(f"more than {caps.bytes_total} bytes in all")

    def _note(self, host: str, port: int, reason: str, *, allowed: bool = False) -> None:
        with self._lock:
            blocked = Blocked(host=host, port=port, reason=reason, allowed=allowed)
            if blocked in self._blocked or len(self._blocked) < _REPORTED:
                self._blocked[blocked] += 1


def _answer(client: socket.socket, status: str, reason: str) -> None:
    body = f"devstral-fix egress: {reason}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with suppress(OSError):
        client.settimeout(2.0)
        client.sendall(head.encode() + body)
