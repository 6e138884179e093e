"""Row 21, and what only strict has: its server inside, and its quota."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.protocols import ExecStatus
from tests.attacks import removal
from tests.attacks.probes import FILL, FILL_FILES, OPEN, SIBLING, inside, outside
from tests.sandboxes import sh
from worker.adapters.sandbox import exec_server, persistent
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
        believed = session.exec(["false"], timeout=10).returncode
        assert believed == 0
        session._server.close()
        monkeypatch.undo()
        assert sh(session, "echo honest").stdout.text == "honest\n"
    outcome = f"SandboxUnavailable, {took:.1f} s"
    row(f"21 the server answers with {lie}", outcome, control=f"open: its {believed} for a command's 1 is believed")


def test_a_server_that_says_nothing_at_all(box, row, monkeypatch, tmp_path):
    monkeypatch.setattr(persistent, "_START_SECONDS", 1.0)
    replaced(monkeypatch, tmp_path, "import time\ntime.sleep(60)\n")
    started = time.monotonic()
    with pytest.raises(SandboxUnavailable), box.session():
        pass
    assert time.monotonic() - started < 8
    monkeypatch.undo()
    with box.session() as session:
        said = sh(session, "echo greets").stdout.text.strip()
    assert said == "greets"
    row("21 the server never greets", "SandboxUnavailable", control=f"the true one {said}")


def test_the_servers_memory_and_descriptors_are_closed(box, session, row, monkeypatch, tmp_path):
    """A command has the server's uid; only that the server is not dumpable keeps /proc/1 shut."""
    got = inside(session, OPEN, "/proc/1/mem", os.O_RDWR)
    assert got == "EACCES"
    assert sh(session, "ls /proc/1/fd").returncode != 0
    control = outside(OPEN, f"/proc/{os.getpid()}/mem", os.O_RDWR)
    assert control == "open"
    row("21 write the server's memory", got, control=control)
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


def test_signals_to_the_server(box, row, tmp_path):
    with box.session() as session:
        sh(session, "kill -9 1; kill -STOP 1; kill -9 -1")
        assert sh(session, "echo alive").stdout.text == "alive\n"
    (tmp_path / "mine").touch()
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as sibling:
        control = outside(SIBLING, sibling.pid)
        sibling.kill()
    assert (control, sibling.returncode) == ("open", -signal.SIGKILL)
    row("21 kill or stop the server", "ignored: the first process", control=control)


QUOTA = 8 << 20
FILLED = {
    "one file": (FILL, "/workspace/x", QUOTA + (4 << 20)),
    "many files": (FILL_FILES, "/workspace/many", 1500, 8192),
    "empty files": (FILL_FILES, "/workspace/many", 3000, 0),
}


@pytest.mark.parametrize("how", FILLED)
def test_the_workspace_is_bounded(box, row, monkeypatch, tmp_path, how):
    """The host's free space must not shrink by more than the quota."""
    attack, where, *more = FILLED[how]
    before = shutil.disk_usage(box.sandbox._root).free
    with box.session(disk_bytes=QUOTA) as session:
        done = session.exec(["python3", "-I", "-c", attack, where, *map(str, more)], timeout=60)
        used = before - shutil.disk_usage(box.sandbox._root).free
    got = "disk" if done.status is ExecStatus.DISK else done.stdout.text.strip()
    assert got in {"ENOSPC", "EDQUOT", "disk"}
    assert used < 8 * QUOTA
    control = outside(attack, tmp_path / "filled", *more)
    assert control == "open"
    row(f"11 fill the workspace by {how}", got, control=control)
    removal.file_system(monkeypatch, "quota")
    with box.session(disk_bytes=QUOTA) as session:
        got = inside(session, attack, where, *more)
    assert got == "open"
    row(f"11 fill the workspace by {how}", got, without="the quota's size and inodes")
