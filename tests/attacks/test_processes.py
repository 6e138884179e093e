"""Rows 2, 19 and 20: what a process sees, and whom it reaches."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from agent.protocols import ExecStatus
from tests.alive import alive, wait_for
from tests.attacks import removal
from tests.attacks.probes import (
    CGROUP_PATHS,
    ENVIRONMENTS,
    GROUP,
    SIBLING,
    SIGNAL,
    VISIBLE,
    inside,
    outside,
    refused_too,
    root,
)
from tests.sandboxes import sh
from worker.adapters.sandbox import command, delegation
from worker.errors import IsolationMissing, SandboxUnavailable

BASIC = pytest.mark.parametrize("level", ["basic"], indirect=True)


# -- 2, 19: whom a process sees ----------------------------------------------------------------------------------------


def test_the_services_environment_is_hidden(box, session, row, monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_MARKER", "secret-marker-2")
    control = outside(ENVIRONMENTS, "secret-marker-2")
    assert control == "open"
    assert inside(session, ENVIRONMENTS, "secret-marker-2") == "hidden"
    row("2 the service's environment", "hidden", control=control)


@pytest.mark.parametrize("removed", [("start",), ("start", "environment")], ids="+".join)
@BASIC
def test_each_of_two_defences_keeps_the_environment_out(box, row, monkeypatch, removed):
    """bubblewrap starts with an empty environment, and clears it: both are lines of the same command at each level."""
    removal.empty_environment(monkeypatch, "LEAKED", "secret-marker-3")
    if "environment" in removed:
        removal.hardening(monkeypatch, "environment")
    with box.session() as session:
        got = inside(session, ENVIRONMENTS, "secret-marker-3")
    names = {"start": "the empty environment of bubblewrap", "environment": "--clearenv"}
    # bubblewrap's own first process still shows what it was started with, inside too: one missing defence is enough.
    assert got == "open" or removed == ("start",)
    row("2 the service's environment", got, without=" + ".join(names[name] for name in removed))


def test_processes_of_the_host_are_hidden(box, session, row, monkeypatch):
    for name, code in (("see", VISIBLE), ("signal", SIGNAL)):
        got = inside(session, code, os.getpid())
        assert got in {"hidden", "ESRCH"}
        row(f"19 {name} a process of the host", got, control=outside(code, os.getpid()))
    removal.hardening(monkeypatch, "pid")
    if box.sandbox.isolation.value == "strict":  # its server wants to be the first process
        with pytest.raises(SandboxUnavailable), box.session():
            pass
        row("19 see a process of the host", "does not start", without="--unshare-pid")
        return
    with box.session() as bare:
        got = inside(bare, VISIBLE, os.getpid())
    assert got == "open"
    row("19 see a process of the host", got, without="--unshare-pid")


@BASIC
def test_the_uid_drop_is_what_stands_behind_the_pid_namespace(box, row, monkeypatch):
    removal.hardening(monkeypatch, "pid")
    with box.session() as bare:
        got = inside(bare, SIGNAL, os.getpid())
    if root():
        assert got == "EPERM"
    row("19 signal a process of the host", got, without="--unshare-pid" + ("; another uid" if root() else ""))


def test_only_standard_descriptors_are_open(box, row, monkeypatch):
    """One of the service's that may be inherited stands for all."""
    shown = os.dup(0)
    os.set_inheritable(shown, True)
    try:
        with box.session() as session:
            got = sh(session, "ls /proc/$$/fd").stdout.text.split()
        assert got == ["0", "1", "2"]
        words = ["sh", "-c", "ls /proc/$$/fd"]
        found = subprocess.run(words, capture_output=True, check=True, text=True, close_fds=False).stdout.split()
        assert str(shown) in found
        row("2 descriptors of the service", "0 1 2", control="open: with one more")
        removal.closed_descriptors(monkeypatch, shown)
        with box.session() as session:
            got = sh(session, "ls /proc/$$/fd").stdout.text.split()
    finally:
        os.close(shown)
    assert str(shown) in got
    row("2 descriptors of the service", "open: with one more", without="a start that closes descriptors")


def test_variables_of_a_command_stay_with_it(session, row, monkeypatch):
    """The caller's variables shape the command, never the programs of ours that run before it."""
    evil = {"LD_PRELOAD": "/workspace/evil.so"}
    done = session.exec(["env"], env=evil, timeout=20)
    assert done.status is ExecStatus.EXIT
    assert done.stderr.text.count("cannot be preloaded") == 1
    assert sh(session, "env").stdout.text.count("LD_PRELOAD") == 0
    words = ["/bin/sh", "-c", 'exec "$@"', "sh", "/usr/bin/env"]
    said = subprocess.run(words, env=evil, capture_output=True, check=True, text=True).stderr
    assert said.count("cannot be preloaded") == 2
    row("2 LD_PRELOAD for the sandbox's own shell", "the command's alone", control="open: the shell and the command")


def test_names_of_variables_are_checked(session, row, monkeypatch):
    for bad in ({"A=B": "c"}, {"--": "c"}, {"A": "\0"}):
        with pytest.raises(ValueError, match=r"variable|NUL"):
            session.exec(["true"], env=bad, timeout=20)
    monkeypatch.setattr(command, "_NAME", re.compile(""))
    got = session.exec(["printenv", "A"], env={"A=B": "c"}, timeout=20).stdout.text
    assert got == "B=c\n"
    row("2 another variable by a name", "ValueError", control="open without the check of names")
    row("2 another variable by a name", "open", without="the check of names")


def test_two_sandboxes_cannot_reach_each_other(box, row, tmp_path):
    with box.session() as one, box.session() as two:
        started, cancel = threading.Event(), threading.Event()
        done: list[object] = []
        marker = f"9874{os.getpid()}.25"

        def work() -> None:
            started.set()
            done.append(sh(one, f"echo mine >mine; sleep {marker}", timeout=30, cancel=cancel))

        worker = threading.Thread(target=work)
        worker.start()
        try:
            assert wait_for(lambda: alive(f"sleep\0{marker}"), 10)
            found = sh(two, "ls / /workspace /tmp; ps ax 2>/dev/null; ls /proc | grep '^[0-9]'; kill -9 -1")
            assert "mine" not in found.stdout.text.split()
            assert marker not in found.stdout.text
            assert alive(f"sleep\0{marker}")
            if root() and box.sandbox.isolation.value == "basic":
                homes = [path / "workspace" for path in (box.sandbox._root / "sessions").iterdir()]
                assert len({path.stat().st_uid for path in homes}) == len(homes)
                assert {path.stat().st_mode & 0o777 for path in homes} == {0o700}
            assert sh(two, "echo still").stdout.text == "still\n"
        finally:
            cancel.set()
            worker.join()
        assert done[0].status is ExecStatus.CANCELLED
        assert one.read("mine") == b"mine\n"
    (tmp_path / "mine").touch()
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as sibling:
        control = outside(SIBLING, sibling.pid)
        sibling.kill()
    assert (control, sibling.returncode) == ("open", -signal.SIGKILL)
    row("19 kill, list and read another sandbox", "nothing reached", control=control)


# -- 20: control groups ------------------------------------------------------------------------------------------------


@pytest.fixture
def group(box):
    """A control group's folder that the service may make; None where it may make none."""
    try:
        base = (box.sandbox._groups or delegation.find()).base
    except IsolationMissing:
        yield None
        return
    made = base.folders[base.ender] / f"attack-{os.getpid()}"
    beside = made.with_name(f"{made.name}-beside")  # the folder above goes with the last group in it
    assert wait_for(lambda: _made(beside), 10)
    yield made
    if made.is_dir():  # its last member may still be leaving
        assert wait_for(lambda: not (made / "cgroup.procs").read_text(), 10)
        made.rmdir()
    beside.rmdir()
    with suppress(OSError):  # others use it
        made.parent.rmdir()


def _made(group: Path) -> bool:
    """Another process may remove the folder above, as long as it is empty."""
    with suppress(FileNotFoundError):
        group.parent.mkdir(exist_ok=True)
        group.mkdir()
    return group.is_dir()


def test_control_groups_are_out_of_reach(session, row, group):
    assert sh(session, "ls -d /sys").returncode != 0
    got = inside(session, GROUP, group or "/sys/fs/cgroup/attack")
    assert got == "ENOENT"
    control = outside(GROUP, group or "/sys/fs/cgroup/attack")
    assert control == "open" or group is None
    row("20 make a control group and move there", got, control=refused_too(control))


def test_what_control_groups_would_be_to_a_sandbox_that_sees_them(box, row, monkeypatch, group):
    """Root's are another uid's; a plain user's would be open."""
    if group is None:
        pytest.skip("no control group can be made here")
    removal.options(monkeypatch, lambda line: [*line, "--bind", str(group.parent), "/tmp/groups"])
    with box.session() as session:
        got = inside(session, GROUP, f"/tmp/groups/{group.name}")
    assert got == ("EACCES" if root() else "open")
    second = ": another uid is the second defence" if root() else ""
    row("20 make a control group and move there", got + second, without="(the host's control groups are bound in)")


def test_the_paths_of_control_groups_are_hidden(box, session, row, monkeypatch):
    control = outside(CGROUP_PATHS)
    assert inside(session, CGROUP_PATHS) == "hidden"
    row("20 the host's control-group paths", "hidden", control=refused_too(control))
    if control == "open":
        removal.hardening(monkeypatch, "cgroup")
        with box.session() as bare:
            got = inside(bare, CGROUP_PATHS)
        assert got == "open"
        row("20 the host's control-group paths", got, without="--unshare-cgroup-try")
