"""Rows 12 and 13: what outlives a command or the service, and what floods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from agent.protocols import ExecStatus
from tests.alive import alive, end, gone_after, wait_for
from tests.attacks.probes import root
from tests.sandboxes import sh
from worker.adapters.sandbox import exec_server, persistent, process

# -- 12: what is left --------------------------------------------------------------------------------------------------

ENDINGS = {"exit": "exit 0", "timeout": "sleep {marker}"}
SECONDS = 1.5


def hiding(marker: str, ending: str) -> str:
    script = "trap '' TERM HUP INT; setsid nohup sleep {marker} >/dev/null 2>&1 & (sleep {marker} >/dev/null 2>&1 &); "
    return (script + ENDINGS[ending]).replace("{marker}", marker)


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_alive(session, row, ending):
    marker = f"9876{os.getpid()}.25"
    started = time.monotonic()
    done = sh(session, hiding(marker, ending), timeout=SECONDS)
    took = gone_after(f"sleep\0{marker}", started)
    assert done.status is (ExecStatus.EXIT if ending == "exit" else ExecStatus.TIMEOUT)
    if hasattr(session, "_limited"):
        assert session._limited.command.members() == set()
    if ending == "exit":
        assert took < SECONDS
        outcome = f"0 left, {took:.2f} s from its start"
    else:
        assert took - SECONDS <= 1.0
        outcome = f"0 left, {took - SECONDS:.2f} s after its time"
    row(f"12 setsid, nohup, double fork; then {ending}", outcome, control=f"{left_outside(ending)} left")


def left_outside(ending: str) -> int:
    """The same without a sandbox; its first process is killed at the timeout, as a plain caller would."""
    marker = f"9875{os.getpid()}.25"
    with subprocess.Popen(["sh", "-c", hiding(marker, ending)], stdout=subprocess.DEVNULL) as shell:
        try:
            assert wait_for(lambda: len(alive(f"sleep\0{marker}")) >= (2 if ending == "exit" else 3), 10)
        finally:
            shell.kill()
            shell.wait()
            left = end(f"sleep\0{marker}")
    assert left >= 2
    return left


ORPHAN = """
import sys
from pathlib import Path
from agent.protocols import Isolation
from tests.sandboxes import place
from worker.adapters.sandbox import command, exec_server
folder, level, marker, server, *removed = sys.argv[1:]
if "parent" in removed:
    groups = command.hardening()
    del groups["parent"]
    command.hardening = lambda: groups
exec_server.__file__ = server
box = place(Path(folder) / "place", isolation=Isolation(level))
with box.session() as session:
    session.exec(["sh", "-c", f"sleep {marker}; true"], timeout=60)
"""
PARENT, SOCKET = "--die-with-parent", "the end of the server's socket"


def killed_service(level, folder, *removed: str) -> tuple[int, float]:
    """SIGKILL leaves the service no word. How many are left of what ran, and seconds until there was none."""
    marker = f"97{len(removed)}{os.getpid()}.25"
    server = folder / "server.py"
    folder.mkdir()
    text = original = exec_server_text()
    if "socket" in removed:
        text = original.replace(
            "                return\n", "                poll.unregister(server)\n                continue\n"
        )
        assert text != original
    server.write_text(text)
    argv = [sys.executable, "-c", ORPHAN, str(folder), level.value, marker, str(server), *removed]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as service:
        assert wait_for(lambda: alive(f"sleep\0{marker}"), 60)
        killed = time.monotonic()
        service.kill()
    # Where it is expected to live on, a second tells.
    wait_for(lambda: not alive(f"sleep\0{marker}"), 1 if removed else 10)
    took = time.monotonic() - killed
    return end(f"sleep\0{marker}"), took


def exec_server_text() -> str:
    with open(exec_server.__file__) as source:  # noqa: PTH123
        return source.read()


@pytest.mark.parametrize("level", ["basic"], indirect=True)
def test_a_killed_service_takes_its_sandboxes_along(level, box, row, tmp_path):
    left, took = killed_service(level, tmp_path / "with")
    assert left == 0
    bare, _ = killed_service(level, tmp_path / "without", "parent")
    assert bare > 0
    row("12 the service is killed", f"0 left, {took:.2f} s after it", control=f"{bare} left without {PARENT}")
    row("12 the service is killed", f"open: {bare} left", without=PARENT)


@pytest.mark.parametrize("level", ["strict"], indirect=True)
def test_a_killed_service_takes_its_server_along(level, box, row, tmp_path):
    """The kernel would take the thread that started it for the parent of a long-lived sandbox, so the option is for
    its short ones: what ends the server is that its socket has no other end."""
    left, took = killed_service(level, tmp_path / "with")
    assert left == 0
    found = {}
    for removed in (("parent",), ("socket",), ("parent", "socket")):
        found[removed] = killed_service(level, tmp_path / "-".join(removed), *removed)[0]
        name = " + ".join({"parent": PARENT, "socket": SOCKET}[word] for word in removed)
        row("12 the service is killed", f"open: {found[removed]} left" if found[removed] else "0 left", without=name)
    assert found["parent",] == 0
    if root():
        assert found["socket",] > 0
        assert found["parent", "socket"] > 0
    # A plain user's ended without it, too, where it was tried; by what is not known.
    control = f"{found['socket',]} left without {SOCKET}"
    row("12 the service is killed", f"0 left, {took:.2f} s after it", control=control)


# -- 13: what floods ---------------------------------------------------------------------------------------------------

FLOODS = ["yes", "yes >&2", "(yes &) ; exit 0"]


@pytest.mark.parametrize("script", FLOODS)
def test_a_flood_is_stopped(session, row, script):
    started = time.monotonic()
    done = sh(session, script, max_output=2000)
    took = time.monotonic() - started
    assert done.status in {ExecStatus.OUTPUT_LIMIT, ExecStatus.EXIT}
    assert took < 10
    assert len(done.stdout.text) + len(done.stderr.text) < 10_000
    outcome = f"{done.status.value} after {took:.2f} s"
    row(f"13 flood: {script}", outcome, control=f"open: {flood_outside(script) >> 20} MiB, and more")


def flood_outside(script: str) -> int:
    """Bytes that were read until we stopped reading."""
    words = ["sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as flooding:
        assert flooding.stdout is not None
        try:
            return len(flooding.stdout.read(4 << 20))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(flooding.pid, signal.SIGKILL)


def test_what_the_limit_of_output_keeps_closed(box, row, monkeypatch):
    for module in (process, persistent):
        monkeypatch.setattr(module, "flooded", lambda *_: False)
    with box.session() as session:
        done = sh(session, "yes", timeout=1.0, max_output=2000)
    assert done.status is ExecStatus.TIMEOUT
    row("13 flood: yes", "open: until its time", without="the limit of output")


def test_a_grandchild_that_holds_the_output_holds_up_nothing(session, row):
    marker = f"9874{os.getpid()}.5"
    script = f"sleep {marker} & echo done"
    started = time.monotonic()
    done = sh(session, script, timeout=40.0)
    took = time.monotonic() - started
    assert (done.status, done.stdout.text) == (ExecStatus.EXIT, "done\n")
    assert took < 10
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["sh", "-c", script], capture_output=True, check=False, timeout=1.0)
    finally:
        assert end(f"sleep\0{marker}") == 1
    row("13 a grandchild holds the pipe", f"exit after {took:.2f} s", control="open: waited for, 1 s and on")
