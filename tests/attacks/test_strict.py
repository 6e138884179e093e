"""Row 21, and what only strict has: its server inside, its control groups, its quota. Each write is removed once."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.protocols import ExecStatus
from tests.attacks import removal
from tests.attacks.probes import ALLOCATE, FILL, FILL_FILES, FORKS, OPEN, inside
from tests.attacks.test_processes import alive, wait_for
from tests.sandboxes import sh
from worker.adapters.sandbox import exec_server, persistent
from worker.adapters.sandbox.cgroup import Group
from worker.errors import SandboxUnavailable

pytestmark = pytest.mark.parametrize("level", ["strict"], indirect=True)

# A server that greets and takes one command; what it answers then comes from LIES.
HELLO = """
import os, socket, sys
server = socket.socket(fileno=0)
def hear():
    data, _, _, _ = server.recvmsg(4096, 4096)
    if not data: sys.exit(0)
    return int(data)
def say(data):
    try: server.send(data)
    except OSError: pass
hear()
server.send(b"0 0")
number = hear()
"""
TRUTH = "say(b'%d 0' % number)"
LIES = {
    "a huge frame": "say(b'1' * 200000)",
    "many frames": "for _ in range(100000): say(b'x')",
    "a number of 60 digits": "say(b'%d ' % number + b'9' * 60)",
    "a code out of range": "say(b'%d 256' % number)",
    "a negative code": "say(b'%d -1' % number)",
    "another command's answer": "say(b'%d 0' % (number + 7))",
    "bytes that are no number": "say(b'\\xff\\x00')",
    "no answer": "hear()",
    "its end": "sys.exit(3)",
}


def replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    (tmp_path / "server.py").write_text(text)
    monkeypatch.setattr(exec_server, "__file__", str(tmp_path / "server.py"))


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_server_is_bounded(box, row, monkeypatch, tmp_path, lie):
    monkeypatch.setattr(persistent, "_END_SECONDS", 1.0)
    with box.session() as session:
        session._stop()
        replaced(monkeypatch, tmp_path, HELLO + LIES[lie] + "\nhear()\n")
        session._ground = session._make_ground(box.tree)
        session._box = replace(session._box, view=session._ground.view)
        started = time.monotonic()
        with pytest.raises(SandboxUnavailable):
            session.exec(["true"], timeout=1.0)
        took = time.monotonic() - started
        assert took < 8
        # The same server is believed when it does not lie: it is the lie that was refused.
        replaced(monkeypatch, tmp_path, HELLO + TRUTH + "\nhear()\n")
        assert session.exec(["false"], timeout=10).returncode == 0
        session._server.close()
        monkeypatch.undo()
        assert sh(session, "echo honest").stdout.text == "honest\n"
    row(
        f"21 the server answers with {lie}",
        f"SandboxUnavailable, {took:.1f} s",
        control="believed when it tells the truth",
    )


def test_a_server_that_says_nothing_at_all(box, row, monkeypatch, tmp_path):
    monkeypatch.setattr(persistent, "_START_SECONDS", 1.0)
    replaced(monkeypatch, tmp_path, "import time\ntime.sleep(60)\n")
    started = time.monotonic()
    with pytest.raises(SandboxUnavailable), box.session():
        pass
    assert time.monotonic() - started < 8
    row("21 the server never greets", "SandboxUnavailable", control="the true one greets")


def test_the_servers_memory_and_descriptors_are_closed(box, session, row, monkeypatch, tmp_path):
    """A command has the server's uid; only that the server is not dumpable keeps /proc/1 shut."""
    got = inside(session, OPEN, "/proc/1/mem", os.O_RDWR)
    assert got == "EACCES"
    assert sh(session, "ls /proc/1/fd").returncode != 0
    row("21 write the server's memory", got, control="see without")
    text = Path(exec_server.__file__).read_text()
    bare = text.replace("    _hide()\n", "")
    assert bare != text
    replaced(monkeypatch, tmp_path, bare)
    with box.session() as other:
        got = inside(other, OPEN, "/proc/1/mem", os.O_RDWR)
    assert got == "open"
    row("21 write the server's memory", got, without="PR_SET_DUMPABLE 0 of the server")


def test_descriptors_of_the_server_do_not_come_along(box, row, monkeypatch, tmp_path):
    """Among them were its control groups' files, open for writing."""
    text = Path(exec_server.__file__).read_text()
    bare = text.replace(", _socket.MSG_CMSG_CLOEXEC)", ")")
    assert bare != text
    replaced(monkeypatch, tmp_path, bare)
    with box.session() as session:
        links = sh(session, "ls -l /proc/$$/fd").stdout.text
    assert "cgroup.procs" in links or "/tasks" in links
    row("2 descriptors of the service", "open: files of its control groups", without="MSG_CMSG_CLOEXEC of the server")


def test_signals_to_the_server(box, row):
    with box.session() as session:
        sh(session, "kill -9 1; kill -STOP 1; kill -9 -1")
        assert sh(session, "echo alive").stdout.text == "alive\n"
    row("21 kill or stop the server", "ignored: the first process", control="")


def test_what_a_command_left_running_ends_before_the_next(box, row):
    marker = f"9873{os.getpid()}.25"
    with box.session() as session:
        done = sh(session, f"setsid nohup sleep {marker} >/dev/null 2>&1 & echo ok", timeout=10)
        assert (done.status, alive(f"sleep\0{marker}")) == (ExecStatus.EXIT, [])
    row("12 a daemon between two commands of a session", "0 left", control="see without")


# -- one write to a control group less ---------------------------------------------------------------------------------


def nothing(*_args: object) -> None:
    """In place of a write."""


def test_what_the_kill_of_a_group_keeps_closed(box, row, monkeypatch):
    marker = f"9872{os.getpid()}.25"
    with box.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(Group, "kill", nothing)
            sh(session, f"setsid nohup sleep {marker} >/dev/null 2>&1 & echo ok", timeout=10)
            wait_for(lambda: alive(f"sleep\0{marker}"), 5)  # its shell is gone before it has become `sleep`
            left = alive(f"sleep\0{marker}")
        for pid in left:
            os.kill(int(pid), signal.SIGKILL)
        assert left
    row("12 a daemon between two commands of a session", "open: left alive", without="cgroup.kill")


def test_what_the_memory_limit_keeps_closed(box, row, monkeypatch):
    monkeypatch.setattr(Group, "limit_memory", nothing)
    with box.session(memory_bytes=256 << 20) as session:
        got = inside(session, ALLOCATE, 400)
    assert got == "open"
    row("10 allocate 400 MiB of 256", got, without="memory.limit_in_bytes / memory.max")


def test_what_the_process_limit_keeps_closed(box, row, monkeypatch):
    monkeypatch.setattr(Group, "limit_processes", nothing)
    with box.session(processes=60) as session:
        got = inside(session, FORKS, 120)
    assert got == "open"
    row("9 fork bomb", got, without="pids.max")


BURN = """
import os, time
for _ in range(4):
    if not os.fork():
        end = time.monotonic() + 2
        while time.monotonic() < end: pass
        os._exit(0)
for _ in range(4): os.wait()
print((os.times().children_user + os.times().children_system) / 2)
"""


def test_what_the_cpu_limit_keeps_closed(box, row, monkeypatch):
    monkeypatch.setattr(Group, "limit_cpus", nothing)
    with box.session(cpus=0.05) as session:
        used = float(inside(session, BURN))
    assert used > 0.08
    row("14 four burners", f"{used:.2f} cpu/s", without="cpu.cfs_quota_us / cpu.max")


@pytest.mark.parametrize(("what", "attack"), [("size", FILL), ("inodes", FILL_FILES)])
def test_what_the_quota_keeps_closed(box, row, monkeypatch, what, attack):
    removal.file_system(monkeypatch, "quota")
    words = ("/workspace/x", 12 << 20) if what == "size" else ("/workspace/many", 3000, 0)
    with box.session(disk_bytes=8 << 20) as session:
        got = inside(session, attack, *words)
    assert got == "open"
    row(f"11 fill the workspace ({what})", got, without=f"the quota's {what}")
