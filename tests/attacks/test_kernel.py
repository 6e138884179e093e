"""Rows 5, 7 and 18: socket families, capabilities and terminals. Families are created, never connected."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tests.attacks import removal
from tests.attacks.probes import (
    CAPABILITIES,
    NETLINK_AUDIT,
    OPEN,
    SOCKET,
    TERMINAL_INPUT,
    inside,
    outside,
    refused_too,
    root,
)
from worker.adapters.sandbox import seccomp

FAMILIES = {"vsock": (40, 1), "packet": (17, 3), "alg": (38, 5), "bluetooth": (31, 3), "can": (29, 3), "xdp": (44, 3)}
TIOCSTI, TIOCLINUX = seccomp.DENIED_IOCTLS


@pytest.mark.parametrize("name", FAMILIES)
def test_a_socket_family_that_namespaces_do_not_cover(session, row, name):
    got = inside(session, SOCKET, *FAMILIES[name])
    assert got == "EAFNOSUPPORT"
    row(f"5 socket {name}", got, control=refused_too(outside(SOCKET, *FAMILIES[name])))


def test_vsock_is_closed_by_the_filter_alone(box, row, monkeypatch):
    if outside(SOCKET, *FAMILIES["vsock"]) != "open":
        pytest.skip("this kernel has no vsock: without the filter there is nothing to show")
    monkeypatch.setattr(seccomp, "ALLOWED_FAMILIES", (*seccomp.ALLOWED_FAMILIES, 40))
    removal.permit(box, monkeypatch)
    with box.session() as session:
        got = inside(session, SOCKET, *FAMILIES["vsock"])
    assert got == "open"
    row("5 socket vsock", got, without="the filter's list of families")


def test_netlink_answers_routes_only(box, session, row, monkeypatch):
    uevent = (16, 3, 15)  # in every kernel
    assert inside(session, SOCKET, 16, 3, 0) == "open"
    for name, words in (("audit", NETLINK_AUDIT), ("uevent", uevent)):
        got = inside(session, SOCKET, *words)
        assert got == "EPROTONOSUPPORT"
        row(f"5 socket netlink/{name}", got, control=refused_too(outside(SOCKET, *words)))
    removal.no_filter(box, monkeypatch)
    with box.session() as bare:
        got = inside(bare, SOCKET, *uevent)
    assert got == "open"
    row("5 socket netlink/uevent", got, without="the filter")


def test_ordinary_sockets_stay(session, row):
    for words in ((1, 1, 0), (2, 1, 0), (2, 2, 0), (10, 1, 0), (16, 3, 0)):
        assert inside(session, SOCKET, *words) == outside(SOCKET, *words) == "open"
    lookup = "import socket; print(socket.getaddrinfo('localhost', 80, type=1)[0][4][0])"
    assert inside(session, lookup) in {"127.0.0.1", "::1"}
    row("5 unix, inet and inet6 sockets (wanted)", "open", control="open")


def test_no_capability_is_held(box, session, row, monkeypatch):
    """bubblewrap drops them by itself, too: the option says it, and keeps it so."""
    assert inside(session, CAPABILITIES) == "none"
    control = outside(CAPABILITIES)
    if not root():
        words = ["unshare", "--user", "--map-root-user", sys.executable, "-I", "-c", CAPABILITIES]
        done = subprocess.run(words, capture_output=True, check=True, timeout=60)
        control = f"{done.stdout.decode().strip()} in a user namespace of its own"
    row("7 capabilities held", "none", control=control)
    with monkeypatch.context() as patch:
        removal.hardening(patch, "capabilities")
        with box.session() as bare:
            got = inside(bare, CAPABILITIES)
    assert got == "none"
    row("7 capabilities held", f"{got}: bubblewrap's default is the second defence", without="--cap-drop ALL")
    removal.options(monkeypatch, lambda line: ["--cap-add" if word == "--cap-drop" else word for word in line])
    with box.session() as bare:
        got = inside(bare, CAPABILITIES)
    assert got == "open"
    row("7 capabilities held", got, without="--cap-drop ALL + bubblewrap's default")


def test_the_clock_stays(session, row):
    """As root outside only an impossible time is asked for: it is looked at, so the right to set it was there."""
    code = (
        "import errno, sys, time\ntry: time.clock_settime_ns(0, time.time_ns() if sys.argv[1] == 'now' else -(1 << 60))"
    )
    code += "\nexcept OSError as e: print(errno.errorcode[e.errno])\nelse: print('open')"
    got = inside(session, code, "now")
    assert got == "EPERM"
    if root():
        assert inside(session, code, "impossible") == "EPERM"
        control = f"{outside(code, 'impossible')} for an impossible time"
        assert control.startswith("EINVAL")
    else:
        control = refused_too(outside(code, "now"))
    row("7 set the clock", got, control=control)


# -- 18: terminals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "request_"), [("TIOCSTI", TIOCSTI), ("TIOCLINUX", TIOCLINUX)])
def test_typing_into_a_terminal(box, session, row, monkeypatch, name, request_):
    """TIOCLINUX is for the machine's own consoles: on every other terminal the kernel answers that it has no such
    request, and no longer that it is denied."""
    got = inside(session, TERMINAL_INPUT, request_)
    assert got == "EPERM"
    control = outside(TERMINAL_INPUT, request_)
    assert control != "EPERM"
    row(f"18 {name}", got, control=refused_too(control))
    removal.line(box, monkeypatch, "ioctl")
    with box.session() as bare:
        without = inside(bare, TERMINAL_INPUT, request_)
    assert without == control or root()  # the kernel's own setting may allow it to root alone
    assert without != "EPERM"
    row(f"18 {name}", without, without="the filter's lines of ioctl")


def test_no_terminal_is_there(session, row):
    got = inside(session, OPEN, "/dev/tty", os.O_RDWR)
    assert got == "ENXIO"
    code = "import os, pty, sys\nif not pty.fork()[0]: os.open('/dev/tty', os.O_RDWR); os._exit(7)\n"
    control = outside(code + "print('open' if os.waitstatus_to_exitcode(os.wait()[1]) == 7 else 'closed')")
    assert control == "open"
    row("18 open /dev/tty", got, control=control)


TERMINAL = """
import json, os, subprocess, sys
from agent.protocols import SandboxLimits
from worker.adapters.sandbox import command, probe, seccomp, stage
groups = command.hardening()
if sys.argv[1] == "without": del groups["terminal"]
command.hardening = lambda: groups
import tempfile
from pathlib import Path
etc = Path(tempfile.mkdtemp())
etc.chmod(0o755)
for name, content in command.ETC_FILES.items(): (etc / name).write_text(content)
bwrap = probe.find_bwraps()[0]
line = command.options([], SandboxLimits(), etc=str(etc), extra_path=None)
code = "(exec 3<>/dev/tty) 2>/dev/null && echo open || echo closed"
done = subprocess.run([bwrap.path, *line, "--", "sh", "-c", code], capture_output=True, text=True, check=False)
import shutil; shutil.rmtree(etc)
os.write(int(sys.argv[2]), (done.stdout.strip().splitlines() or [done.stderr])[-1].encode())
"""


def test_the_callers_terminal(row):
    """From a process that has a terminal, as an operator's shell has. The same option makes both levels."""
    got, bare = on_a_terminal("with"), on_a_terminal("without")
    assert (got, bare) == ("closed", "open")
    row("18 open the caller's terminal", got, control=f"{bare} without --new-session", level="both")
    row("18 open the caller's terminal", bare, without="--new-session", level="both")


def on_a_terminal(mode: str) -> str:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    pid, main = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", TERMINAL, mode, str(write)])
    os.close(write)
    with os.fdopen(read) as answer:
        got = answer.read()
    os.waitpid(pid, 0)
    os.close(main)
    return got
