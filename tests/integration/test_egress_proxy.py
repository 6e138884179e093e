"""The proxy over real sockets. Nothing leaves loopback: names are resolved by the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from worker.adapters.egress import Caps, EgressProxy, HostPattern, Policy

PATIENCE = 10.0


class Upstream:
    """Answers every connection with what it was sent, once the client has ended its side; counts connections."""

    def __init__(self, answer: bytes = b"", flood: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.received: list[bytes] = []
        self._answer, self._flood = answer, flood
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                conn, _ = self._server.accept()
            except OSError:
                return
            with conn:
                conn.settimeout(PATIENCE)
                try:
                    if self._answer:
                        data = b""
                        while b"\r\n\r\n" not in data:
                            data += conn.recv(4096)
                        self.received.append(data)
                        conn.sendall(self._answer)
                        continue
                    if self._flood:
                        conn.sendall(b"x" * self._flood)
                        continue
                    data = b""
                    while more := conn.recv(65536):
                        data += more
                    self.received.append(data)
                    conn.sendall(b"got " + data)
                except OSError:
                    self.received.append(b"(broken)")

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(PATIENCE)


@pytest.fixture
def serve() -> Iterator:
    with ExitStack() as stack:

        def make(**kind) -> Upstream:
            upstream = Upstream(**kind)
            stack.callback(upstream.close)
            return upstream

        yield make


@contextmanager
def proxy(tmp_path, *, hosts=(), private=(), caps=None, names=None) -> Iterator[EgressProxy]:
    def resolve(host: str, port: int) -> list[str]:
        answer = (names or {})[host]
        return answer(host) if callable(answer) else answer

    policy = Policy(
        hosts=tuple(map(HostPattern.parse, hosts)),
        private=tuple(map(HostPattern.parse, private)),
        caps=caps or Caps(),
    )
    with EgressProxy(tmp_path / "p.sock", policy, resolve=resolve) as running:
        yield running


@contextmanager
def client(tmp_path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(tmp_path / "p.sock"))
        yield sock


def everything(sock: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionError:
            return data
        if not more:
            return data
        data += more


def ask(tmp_path, request: bytes) -> bytes:
    with client(tmp_path) as sock:
        sock.sendall(request)
        return everything(sock)


LOOPBACK = {"index.test": ["127.0.0.1"]}


def test_a_tunnel_carries_bytes_both_ways_and_half_closes(tmp_path, serve):
    upstream = serve()
    private = [f"index.test:{upstream.port}"]
    with proxy(tmp_path, private=private, names=LOOPBACK) as running, client(tmp_path) as sock:
        # Sent at once with the head, as an impatient client does.
        sock.sendall(b"CONNECT index.test:%d HTTP/1.1\r\nHost: x\r\n\r\nhello " % upstream.port)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"w" * 300_000)
        sock.shutdown(socket.SHUT_WR)  # the other way stays open
        assert everything(sock) == b"got hello " + b"w" * 300_000
        assert running.blocked == ()
    assert running.bytes_by_host == {"index.test": 600_000 + 16}
    assert not (tmp_path / "p.sock").exists()


def test_a_plain_request_is_served_and_a_second_one_on_its_connection_is_not(tmp_path, serve):
    upstream = serve(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with proxy(tmp_path, private=[f"index.test:{upstream.port}"], names=LOOPBACK):
        said = ask(
            tmp_path,
            b"GET http://index.test:%d/a HTTP/1.1\r\nHost: other\r\n\r\nGET http://other.test/ HTTP/1.1\r\n\r\n"
            % upstream.port,
        )
    assert said.endswith(b"\r\n\r\nok")
    assert upstream.received == [b"GET /a HTTP/1.1\r\nHost: index.test:%d\r\nConnection: close\r\n\r\n" % upstream.port]


def test_what_is_not_listed_is_refused_and_reported(tmp_path, serve):
    upstream = serve()
    with proxy(tmp_path, hosts=["index.test"], names=LOOPBACK) as running:
        requests = [
            b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n",
            b"CONNECT index.test:22 HTTP/1.1\r\n\r\n",
            b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % upstream.port,
            b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n",
            b"GET http://169.254.169.254/latest HTTP/1.1\r\n\r\n",
            b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n",
        ]
        assert {ask(tmp_path, request)[:12] for request in requests} == {b"HTTP/1.1 403"}
        # Listed, but at an address that it may not be at.
        assert b"loopback" in ask(tmp_path, b"CONNECT index.test:443 HTTP/1.1\r\n\r\n")
    assert [(b.host, b.port, b.reason) for b in running.blocked] == [
        ("evil.test", 443, "not on the list of allowed hosts"),
        ("index.test", 22, "not on the list of allowed hosts"),
        ("127.0.0.1", upstream.port, "an address that is not listed"),
        ("::1", 443, "an address that is not listed"),
        ("169.254.169.254", 80, "an address that is not listed"),
        ("index.test", 443, "resolves to a loopback address"),
    ]
    assert upstream.received == []


def test_the_address_that_was_checked_is_the_one_connected_to(tmp_path, serve, monkeypatch):
    """Rebinding: the first answer is public, each later one is the victim's. One look-up, so only the first counts."""
    victim = serve()
    answers = iter([["93.184.216.34"]])
    dialled: list[tuple[str, int]] = []

    def dial(destination, timeout):
        dialled.append(destination)
        raise OSError("no traffic beyond loopback in tests")

    monkeypatch.setattr("worker.adapters.egress.proxy.socket.create_connection", dial)
    names = {"index.test": lambda _: next(answers, ["127.0.0.1"])}
    with proxy(tmp_path, hosts=["index.test"], names=names):
        assert b" 502 " in ask(tmp_path, b"CONNECT index.test:443 HTTP/1.1\r\n\r\n")
        assert dialled == [("93.184.216.34", 443)]
        assert b" 403 " in ask(tmp_path, b"CONNECT index.test:443 HTTP/1.1\r\n\r\n")
        assert dialled == [("93.184.216.34", 443)]
    assert victim.received == []


def test_of_mixed_answers_only_the_public_ones_are_tried(tmp_path, monkeypatch):
    dialled = []

    def dial(destination, timeout):
        dialled.append(destination[0])
        raise OSError("no traffic beyond loopback in tests")

    monkeypatch.setattr("worker.adapters.egress.proxy.socket.create_connection", dial)
    names = {"index.test": ["127.0.0.1", "2606:4700::1111", "::ffff:10.0.0.1", "10.0.0.1"]}
    with proxy(tmp_path, hosts=["index.test"], names=names):
        ask(tmp_path, b"CONNECT index.test:443 HTTP/1.1\r\n\r\n")
    assert dialled == ["2606:4700::1111"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: index.test\r\n\r\n", 400),
        (b"POST http://index.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400),
        (b"GET http://index.test/ HTTP/1.1\r\n" + b"X: %s\r\n" % (b"y" * 900) * 40, 431),
        (b"A" * 40_000, 431),
    ],
)
def test_garbage_and_huge_heads_are_refused(tmp_path, sent, status):
    with proxy(tmp_path, hosts=["index.test"], names=LOOPBACK) as running:
        with client(tmp_path) as sock:
            sock.sendall(sent)
            assert sock.recv(12) == b"HTTP/1.1 %d" % status
        assert running.blocked == ()


def test_a_slow_head_and_a_silent_tunnel_end(tmp_path, serve):
    upstream = serve()
    caps = Caps(head_seconds=0.2, idle_seconds=0.2)
    with proxy(tmp_path, private=[f"index.test:{upstream.port}"], names=LOOPBACK, caps=caps) as running:
        assert ask(tmp_path, b"CONNECT index.test").startswith(b"HTTP/1.1 408")
        said = ask(tmp_path, b"CONNECT index.test:%d HTTP/1.1\r\n\r\nhi" % upstream.port)
        assert said == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert [b.reason for b in running.blocked] == ["nothing came for too long"]


def test_a_connection_has_a_longest_time(tmp_path, serve):
    upstream = serve()
    caps = Caps(total_seconds=0.3)
    with proxy(tmp_path, private=[f"index.test:{upstream.port}"], names=LOOPBACK, caps=caps) as running:
        ask(tmp_path, b"CONNECT index.test:%d HTTP/1.1\r\n\r\nhi" % upstream.port)
        assert [b.reason for b in running.blocked] == ["took too long"]


@pytest.mark.parametrize("caps", [Caps(bytes_per_host=100_000), Caps(bytes_total=100_000)])
def test_bytes_are_capped(tmp_path, serve, caps):
    upstream = serve(flood=3_000_000)
    with proxy(tmp_path, private=[f"index.test:{upstream.port}"], names=LOOPBACK, caps=caps) as running:
        request = b"CONNECT index.test:%d HTTP/1.1\r\n\r\n" % upstream.port
        assert len(ask(tmp_path, request)) < 400_000
        assert ask(tmp_path, request) == b""  # used up: no second connection
        assert {b.reason.partition(" bytes")[0] for b in running.blocked} == {"more than 100000"}


def test_connections_beyond_the_cap_wait(tmp_path, serve):
    upstream = serve()
    with (
        proxy(tmp_path, private=[f"index.test:{upstream.port}"], names=LOOPBACK, caps=Caps(connections=1)),
        client(tmp_path) as second,
    ):
        head = b"CONNECT index.test:%d HTTP/1.1\r\n\r\n" % upstream.port
        with client(tmp_path) as first:  # `second` was accepted and holds the one place; it says nothing yet
            first.sendall(head)
            first.settimeout(0.2)
            with pytest.raises(TimeoutError):
                first.recv(1)
            second.sendall(head)
            second.shutdown(socket.SHUT_WR)
            assert everything(second).endswith(b"got ")
            first.settimeout(PATIENCE)
            assert first.recv(12) == b"HTTP/1.1 200"


def test_closing_ends_what_is_open(tmp_path, serve):
    upstream = serve()
    before = threading.active_count()
    with ExitStack() as stack:
        with proxy(tmp_path, private=[f"index.test:{upstream.port}"], names=LOOPBACK):
            tunnel, silent = stack.enter_context(client(tmp_path)), stack.enter_context(client(tmp_path))
            tunnel.sendall(b"CONNECT index.test:%d HTTP/1.1\r\n\r\n" % upstream.port)
            assert tunnel.recv(100).startswith(b"HTTP/1.1 200 ")
        assert everything(tunnel) == b""
        assert everything(silent) == b""
    assert threading.active_count() == before


def test_reports_are_bounded(tmp_path):
    with proxy(tmp_path, hosts=["index.test"]) as running:
        for number in range(120):
            ask(tmp_path, b"CONNECT h%d.test:443 HTTP/1.1\r\n\r\n" % number)
        assert len(running.blocked) == 100
