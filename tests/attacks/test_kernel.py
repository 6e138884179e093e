"""Rows 5, 7 and 18: system calls, socket families and terminals. Families are created, never connected."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from tests.attacks import removal
from tests.attacks.probes import (
    CALL,
    CALLS,
    CAPABILITIES,
    INT80,
    NETLINK_AUDIT,
    OPEN,
    SOCKET,
    TTY_INPUT,
    inside,
    outside,
    root,
)
from worker.adapters.sandbox import seccomp

X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
FAMILIES = {"vsock": (40, 1), "packet": (17, 3), "alg": (38, 5), "bluetooth": (31, 3), "can": (29, 3), "xdp": (44, 3)}
NUMBERS = {name: numbers[0] for name, numbers in seccomp.DENIED.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_socket_family_that_namespaces_do_not_cover(session, row, name):
    got = inside(session, SOCKET, *FAMILIES[name])
    assert got == "EAFNOSUPPORT"
    row(f"5 socket {name}", got, control=outside(SOCKET, *FAMILIES[name]))


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
    assert inside(session, SOCKET, 16, 3, 0) == "open"
    got = inside(session, SOCKET, *NETLINK_AUDIT)
    assert got == "EPROTONOSUPPORT"
    row("5 socket netlink/audit", got, control="see without")
    removal.no_filter(box, monkeypatch)
    with box.session() as bare:
        got = inside(bare, SOCKET, 16, 3, 15)  # uevents: in every kernel
    assert got == "open"
    row("5 socket netlink/uevent", got, without="the filter")


def test_ordinary_sockets_stay(session, row):
    for family, kind, protocol in ((1, 1, 0), (2, 1, 0), (2, 2, 0), (10, 1, 0), (16, 3, 0)):
        assert inside(session, SOCKET, family, kind, protocol) == "open"
    lookup = "import socket; print(socket.getaddrinfo('localhost', 80, type=1)[0][4][0])"
    assert inside(session, lookup) in {"127.0.0.1", "::1"}
    row("5 unix, inet and inet6 sockets (wanted)", "open")


@X86
def test_every_denied_call(box, session, row, monkeypatch):
    """All at once inside; and again without the filter, where most answer something else: those are red then. What
    answers EPERM either way is kept closed a second time, by missing capabilities."""
    answers = inside(session, CALLS, *NUMBERS.values()).split()
    assert dict(zip(NUMBERS, answers, strict=True)) == dict.fromkeys(NUMBERS, "EPERM")
    removal.no_filter(box, monkeypatch)
    with box.session() as bare:
        without = dict(zip(NUMBERS, inside(bare, CALLS, *NUMBERS.values()).split(), strict=True))
    red = [name for name in NUMBERS if without[name] != "EPERM"]
    assert {"ptrace", "add_key", "keyctl", "io_uring_setup", "kcmp", "process_vm_readv"} <= set(red)
    for name in NUMBERS:
        second = "EPERM for want of a capability, too" if name not in red else f"{without[name]} without the filter"
        row(f"7 {name}", "EPERM", control=second)


@X86
@pytest.mark.parametrize("name", ["userfaultfd", "io_uring_setup", "add_key", "kcmp", "ptrace", "keyctl", "bpf"])
def test_a_call_that_only_the_filter_denies(box, row, monkeypatch, name):
    """One line of the filter removed."""
    arguments = [int(name == "userfaultfd"), *[0] * 4]  # user mode only: what a plain user may ask for
    plain = outside(CALL, NUMBERS[name], *arguments)
    removal.permit(box, monkeypatch, name)
    with box.session() as session:
        got = inside(session, CALL, NUMBERS[name], *arguments)
        assert inside(session, CALL, NUMBERS["syslog"]) == "EPERM"  # nothing else opened
    if got == "EPERM":
        assert name == "bpf"  # a capability is asked for as well
    row(f"7 {name}", got, control=plain, without=f"the filter's line {name}")


@X86
@pytest.mark.parametrize("removed", [("filter",), ("option",), ("filter", "option")], ids="+".join)
def test_each_of_two_defences_keeps_user_namespaces_closed(box, row, monkeypatch, removed):
    if "filter" in removed:
        removal.permit(box, monkeypatch, "unshare")
    if "option" in removed:
        removal.hardening(monkeypatch, "userns")
    with box.session() as session:
        got = inside(session, CALL, NUMBERS["unshare"], 0x10000000)
    assert got == "open" if len(removed) == 2 else got in {"EPERM", "ENOSPC"}
    names = {"filter": "the filter's line unshare", "option": "--disable-userns"}
    row("7 unshare(NEWUSER)", got, without=" + ".join(names[name] for name in removed))


@X86
def test_clone_makes_no_namespaces(session, row):
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert inside(session, CALL, 56, flag | 17, 0, 0, 0, 0) == "EPERM"
    assert inside(session, CALL, seccomp.CLONE3, 0, 0) == "ENOSYS"
    row("7 clone(NEW*)", "EPERM", control="open without both (unshare)")
    row("7 clone3", "ENOSYS", control=outside(CALL, seccomp.CLONE3, 0, 0))


@X86
def test_foreign_ways_into_the_kernel_are_closed(session, row):
    assert inside(session, CALL, 0x40000000 | 39) == "ENOSYS"
    row("7 x32 calls", "ENOSYS", control=outside(CALL, 0x40000000 | 39))
    assert inside(session, INT80) == "ENOSYS"
    row("7 int 0x80", "ENOSYS", control=outside(INT80) or "this kernel has none")


def test_no_capability_is_held(box, session, row, monkeypatch):
    assert inside(session, CAPABILITIES) == "none"
    row("7 capabilities held", "none", control=outside(CAPABILITIES) if root() else "none: a plain user")
    removal.hardening(monkeypatch, "capabilities")
    with box.session() as bare:
        got = inside(bare, CAPABILITIES)
    # bubblewrap drops them by itself, too: the option says it, and keeps it so.
    assert got == "none"
    row("7 capabilities held", got, without="--cap-drop ALL (bubblewrap's default is the second defence)")


def test_the_clock_stays(session, row):
    code = "import errno, time\ntry: time.clock_settime(0, time.time()); print('open')\n"
    got = inside(session, code + "except OSError as e: print(errno.errorcode[e.errno])")
    assert got == "EPERM"
    row("7 set the clock", got, control="needs CAP_SYS_TIME")


# -- 18: terminals ----------------------------------------------------------------------------------------------------


def test_typing_into_a_terminal(session, row):
    assert set(inside(session, TTY_INPUT).split()) == {"EPERM"}
    assert inside(session, OPEN, "/dev/tty", os.O_RDWR) == "ENXIO"
    control = set(outside(TTY_INPUT).split()) - {"EPERM"}
    row("18 TIOCSTI, TIOCLINUX", "EPERM", control=" ".join(sorted(control)) or "EPERM: the kernel's own setting")


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


@pytest.mark.parametrize("mode", ["with", "without"])
def test_the_callers_terminal(row, mode):
    """From a process that has a terminal, as an operator's shell has. The same option makes both levels."""
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
    if mode == "with":
        assert got == "closed"
        row("18 open the caller's terminal", got, control="see without", level="both")
    else:
        assert got == "open"
        row("18 open the caller's terminal", got, without="--new-session", level="both")
