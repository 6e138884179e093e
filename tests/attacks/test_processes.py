"""Rows 2, 9, 10, 12, 13, 14, 19 and 20: processes, what they may use, and whom they reach."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.protocols import ExecStatus
from tests.attacks import removal
from tests.attacks.probes import (
    ALLOCATE,
    CGROUP_PATHS,
    ENVIRONMENTS,
    FORKS,
    SIGNAL,
    VISIBLE,
    inside,
    outside,
    root,
)
from tests.sandboxes import sh
from worker.errors import SandboxUnavailable

STRICT = pytest.mark.parametrize("level", ["strict"], indirect=True)
BASIC = pytest.mark.parametrize("level", ["basic"], indirect=True)


def alive(marker: str) -> list[str]:
    """Host processes whose command line holds `marker`, our own test apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in command:
                found.append(entry.name)
    return found


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


def test_only_standard_descriptors_are_open(session, row):
    assert sh(session, "ls /proc/$$/fd").stdout.text.split() == ["0", "1", "2"]
    row("2 descriptors of the service", "0 1 2", control="")


def test_variables_of_a_command_stay_with_it(session, row):
    """The caller's variables shape the command, never the programs of ours that run before it."""
    done = session.exec(["true"], env={"LD_PRELOAD": "/workspace/evil.so", "ENV": "/workspace/x"}, timeout=20)
    assert done.status is ExecStatus.EXIT
    for bad in ({"A=B": "c"}, {"--": "c"}, {"A": "\0"}):
        with pytest.raises(ValueError, match=r"variable|NUL"):
            session.exec(["true"], env=bad, timeout=20)
    assert sh(session, "env").stdout.text.count("LD_PRELOAD") == 0
    row("2 environment injection", "ValueError, or the command's own", control="")


def test_two_sandboxes_cannot_reach_each_other(box, row):
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
    row("19 kill, list and read another sandbox", "nothing reached", control="")


# -- 9, 10, 14: what it may use ----------------------------------------------------------------------------------------


def test_a_fork_bomb_is_bounded(box, row, monkeypatch):
    with box.session(processes=60) as session:
        got = inside(session, FORKS, 120)
        assert got == "EAGAIN"
        assert subprocess.run(["true"], check=True).returncode == 0
        bomb = "bomb() { bomb | bomb & }; bomb; sleep 60"
        started = time.monotonic()
        done = sh(session, bomb, timeout=2.0)
        took = time.monotonic() - started
        assert done.status in {ExecStatus.TIMEOUT, ExecStatus.PIDS, ExecStatus.EXIT}
        assert took < 8
        assert subprocess.run(["true"], check=True).returncode == 0
    row("9 fork bomb", f"EAGAIN; {done.status.value} after {took:.1f} s", control="open without the limit")


@BASIC
def test_what_the_limit_of_processes_keeps_closed(box, row, monkeypatch):
    removal.ulimits(monkeypatch, 2, 5000)
    with box.session(processes=60) as session:
        got = inside(session, FORKS, 120)
    assert got == "open"
    row("9 fork bomb", got, without="ulimit -u")


def test_memory_is_bounded(box, row):
    with box.session(memory_bytes=256 << 20) as session:
        done = session.exec(["python3", "-I", "-c", ALLOCATE, "400"], timeout=30)
        got = done.status.value if done.status is not ExecStatus.EXIT else (done.stdout.text.strip() or "killed")
        assert got in {"oom", "MemoryError"}
        row("10 allocate 400 MiB of 256", got, control=outside(ALLOCATE, 400))


@BASIC
def test_what_the_limit_of_memory_keeps_closed(box, row, monkeypatch):
    removal.ulimits(monkeypatch, 1, 1 << 30)
    with box.session(memory_bytes=256 << 20) as session:
        got = inside(session, ALLOCATE, 400)
    assert got == "open"
    row("10 allocate 400 MiB of 256", got, without="ulimit -d")


@STRICT
def test_memory_is_bounded_over_processes(box, row):
    """Several that are small each: only a control group adds them up."""
    code = "import os, time\nfor _ in range(6):\n if not os.fork():\n"
    code += "  x = bytearray(80 << 20); time.sleep(3); os._exit(0)\n"
    code += "bad = 0\nfor _ in range(6): bad += os.wait()[1] != 0\nprint('open' if not bad else 'killed')"
    with box.session(memory_bytes=256 << 20) as session:
        done = session.exec(["python3", "-I", "-c", code], timeout=30)
    got = "oom" if done.status is ExecStatus.OOM else done.stdout.text.strip()
    assert got in {"oom", "killed"}
    row("10 allocate six times 80 MiB of 256", got, control="open in basic")


@STRICT
def test_processor_time_is_bounded(box, row):
    code = "import os, time\nfor _ in range(4):\n if not os.fork():\n  end = time.monotonic() + 2\n"
    code += "  while time.monotonic() < end: pass\n  os._exit(0)\n"
    code += "for _ in range(4): os.wait()\nt = os.times(); print(t.children_user + t.children_system)"
    with box.session(cpus=0.5) as session:
        used = float(inside(session, code)) / 2.0
    assert used <= 0.65
    row("14 four burners at 0.5 cpus", f"{used:.2f} cpu/s", control="see basic")


@BASIC
def test_processor_time_is_not_bounded_in_basic(box, row):
    code = "import os, time\nfor _ in range(4):\n if not os.fork():\n  end = time.monotonic() + 2\n"
    code += "  while time.monotonic() < end: pass\n  os._exit(0)\n"
    code += "for _ in range(4): os.wait()\nt = os.times(); print(t.children_user + t.children_system)"
    with box.session(cpus=0.05) as session:
        used = float(inside(session, code)) / 2.0
    assert used > 0.08
    row("14 four burners", f"{used:.2f} cpu/s", without="cpu quota (strict only)")


def test_limits_are_hard(box, row):
    with box.session() as session:
        done = sh(session, "ulimit -n; ulimit -c; ulimit -Hn")
        assert done.stdout.text.split() == ["1024", "0", "1024"]
        assert sh(session, "ulimit -n 4096").returncode != 0
    row("9 raise a limit again", "refused", control="open for root" if root() else "")


# -- 12, 13: what is left, and what floods -----------------------------------------------------------------------------

ENDINGS = {"exit": "exit 0", "timeout": "sleep 98761.5"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_alive(session, row, ending):
    marker = f"9876{os.getpid()}.25"
    script = f"trap '' TERM HUP INT; setsid nohup sleep {marker} & (sleep {marker} &) ; {ENDINGS[ending]}"
    done = sh(session, script, timeout=1.5)
    assert done.status is (ExecStatus.EXIT if ending == "exit" else ExecStatus.TIMEOUT)
    assert alive(f"sleep\0{marker}") == []
    row(f"12 setsid, nohup, double fork; then {ending}", "0 left", control="see below")


def test_the_same_grandchild_lives_on_outside(row):
    marker = f"9875{os.getpid()}.25"
    subprocess.run(["sh", "-c", f"setsid nohup sleep {marker} >/dev/null 2>&1 &"], check=True)
    found: list[str] = []
    deadline = time.monotonic() + 5
    while not found and time.monotonic() < deadline:
        found = alive(f"sleep\0{marker}")
    for pid in found:
        os.kill(int(pid), signal.SIGKILL)
    assert found
    row("12 setsid, nohup, double fork; then exit", "", control=f"{len(found)} left outside", level="none")


ORPHAN = """
import sys
from pathlib import Path
from agent.protocols import Isolation
from tests.sandboxes import place
from worker.adapters.sandbox import command
folder, level, mode, marker = sys.argv[1:]
if mode == "without":
    groups = command.hardening()
    del groups["parent"]
    command.hardening = lambda: groups
box = place(Path(folder) / "place", isolation=Isolation(level))
with box.session() as session:
    session.exec(["sh", "-c", f"sleep {marker}; true"], timeout=60)
"""


@pytest.mark.parametrize("mode", ["with", "without"])
def test_a_killed_service_takes_its_sandboxes_along(level, box, row, tmp_path, mode):
    """SIGKILL leaves the service no word: the kernel has to end what runs inside."""
    marker = f"97{int(mode == 'with')}{os.getpid()}.25"
    argv = [sys.executable, "-c", ORPHAN, str(tmp_path), level.value, mode, marker]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as service:
        wait_for(lambda: alive(f"sleep\0{marker}"), 30)
        service.kill()
    left = not wait_for(lambda: not alive(f"sleep\0{marker}"), 5 if mode == "with" else 1)
    for pid in alive(f"sleep\0{marker}"):
        os.kill(int(pid), signal.SIGKILL)
    if mode == "with":
        assert not left
        row("12 the service is killed", "0 left", control="see without")
    else:
        row(
            "12 the service is killed",
            "open: left alive" if left else "0 left: a second defence",
            without="--die-with-parent",
        )


def wait_for(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("script", ["yes", "yes >&2", "(yes &) ; exit 0"])
def test_a_flood_is_stopped(session, row, script):
    started = time.monotonic()
    done = sh(session, script, max_output=2000)
    took = time.monotonic() - started
    assert done.status in {ExecStatus.OUTPUT_LIMIT, ExecStatus.EXIT}
    assert took < 10
    assert len(done.stdout.text) + len(done.stderr.text) < 10_000
    row(f"13 flood: {script}", f"{done.status.value} after {took:.2f} s", control="never ends outside")


def test_a_grandchild_that_holds_the_output_holds_up_nothing(session, row):
    started = time.monotonic()
    done = sh(session, "sleep 50 & echo done", timeout=40.0)
    took = time.monotonic() - started
    assert (done.status, done.stdout.text) == (ExecStatus.EXIT, "done\n")
    assert took < 10
    row("13 a grandchild holds the pipe", f"exit after {took:.2f} s", control="50 s where the pipe's end is waited for")


# -- 20: control groups ------------------------------------------------------------------------------------------------


def test_control_groups_are_out_of_reach(box, session, row, monkeypatch):
    done = sh(session, "mkdir /sys/fs/cgroup/x; echo $$ >/sys/fs/cgroup/cgroup.procs; ls /sys/fs/cgroup")
    assert done.returncode != 0
    assert sh(session, "ls -d /sys").returncode != 0
    row("20 cgroup mkdir, move out", "no /sys", control="open for root" if root() else "delegated folders only")
    outside_paths = outside(CGROUP_PATHS)
    assert inside(session, CGROUP_PATHS) == "hidden" or outside_paths == "hidden"
    row("20 the host's control-group paths", "hidden", control=outside_paths)
    if outside_paths == "open":
        removal.hardening(monkeypatch, "cgroup")
        with box.session() as bare:
            got = inside(bare, CGROUP_PATHS)
        assert got == "open"
        row("20 the host's control-group paths", got, without="--unshare-cgroup-try")
