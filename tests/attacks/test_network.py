"""Rows 3 and 4: sockets of the host, and routes out of the sandbox. Loopback and namespaces of the test's own only."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile

import pytest

from tests.attacks import removal
from tests.attacks.probes import CONNECT, HOSTNAME, SHARED_MEMORY, inside, outside
from tests.sandboxes import sh


@pytest.fixture
def listeners():
    # A socket's path may have 107 bytes at most: not pytest's folder.
    folder = tempfile.TemporaryDirectory(prefix="df-", dir="/tmp")
    with folder as tmp, socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as named:
        abstract = f"@devstral-fix-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as hidden:
            hidden.bind(abstract.replace("@", "\0"))
            hidden.listen()
            named.bind(f"{tmp}/s")
            named.listen()
            yield {"tcp": tcp.getsockname()[1], "abstract": abstract, "named": f"{tmp}/s"}


@pytest.mark.parametrize("kind", ["tcp", "abstract", "named"])
def test_no_socket_of_the_host_is_reachable(session, row, listeners, kind):
    control = outside(CONNECT, kind, listeners[kind])
    assert control == "open"
    got = inside(session, CONNECT, kind, listeners[kind])
    assert got in {"ECONNREFUSED", "ENOENT"}
    row(f"3 connect to a {kind} socket of the host", got, control=control)


@pytest.mark.parametrize("kind", ["tcp", "abstract"])
def test_the_network_namespace_is_what_hides_them(box, row, listeners, monkeypatch, kind):
    removal.hardening(monkeypatch, "net")
    with box.session() as session:
        got = inside(session, CONNECT, kind, listeners[kind])
    assert got == "open"
    row(f"3 connect to a {kind} socket of the host", got, without="--unshare-net")


ROUTES = "tail -n +2 /proc/net/route | cut -f1; tail -n +3 /proc/net/dev | cut -d: -f1"


def test_there_is_no_route(box, session, row, monkeypatch):
    """Whatever this machine has, its names are shown without the namespace; a machine that has none shows none."""
    assert sh(session, ROUTES).stdout.text.split() == ["lo"]
    done = subprocess.run(["sh", "-c", ROUTES], capture_output=True, check=True, text=True)
    others = set(done.stdout.split()) - {"lo"}
    control = "open" if others else "refused too: this machine has only lo"
    row("4 routes and devices", "lo only", control=control)
    removal.hardening(monkeypatch, "net")
    with box.session() as bare:
        got = set(sh(bare, ROUTES).stdout.text.split()) - {"lo"}
    assert got == others
    row("4 routes and devices", control, without="--unshare-net")


def test_shared_memory_of_the_host_is_hidden(box, session, row, monkeypatch):
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5EED0000 + os.getpid()
    segment = libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        control = outside(SHARED_MEMORY, key)
        assert control == "open"
        got = inside(session, SHARED_MEMORY, key)
        assert got == "ENOENT"
        row("3 shared memory of the host", got, control=control)
        removal.hardening(monkeypatch, "ipc")
        with box.session() as bare:
            got = inside(bare, SHARED_MEMORY, key)
        assert got == "open"
        row("3 shared memory of the host", got, without="--unshare-ipc")
    finally:
        libc.shmctl(segment, 0, None)


def test_the_hosts_name_is_hidden(box, session, row, monkeypatch):
    name = socket.gethostname()
    assert inside(session, HOSTNAME, name) == "hidden"
    row("2 the host's name", "hidden", control=outside(HOSTNAME, name))
    removal.hardening(monkeypatch, "uts")
    with box.session() as bare:
        got = inside(bare, HOSTNAME, name)
    assert got == "open"
    row("2 the host's name", got, without="--unshare-uts")


@pytest.mark.root_only
def test_no_way_to_another_namespace(level, box, row, tmp_path):
    """A service that lives in a network namespace of the test's own, with a neighbour behind a veth pair."""
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--kill-child",
            sys.executable,
            "-m",
            "tests.attacks.neighbours",
            str(tmp_path),
            level.value,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode == 77:
        pytest.skip(f"this kernel makes no veth pair: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    for kind in ("tcp", "udp"):
        assert said["outside"][kind] == "open"
        assert said["inside"][kind] == "ENETUNREACH"
        assert said["without"][kind] == "open"
        row(f"4 {kind} to a neighbour's address", said["inside"][kind], control=said["outside"][kind])
        row(f"4 {kind} to a neighbour's address", said["without"][kind], without="--unshare-net")
