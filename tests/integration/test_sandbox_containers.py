"""What is particular to containers: leftovers, limits that the engine sets, and what its words must not become."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.protocols import ExecStatus, Isolation
from tests.container_places import SERIAL, podman_place
from tests.sandboxes import python, sh
from worker import compose
from worker.adapters.sandbox import ContainerSandbox, backends, container_options, seccomp
from worker.adapters.sandbox.container_options import LABEL
from worker.errors import IsolationMissing, SandboxUnavailable
from worker.settings import Settings

pytestmark = SERIAL

# Tries every call with arguments that nothing accepts, and prints those that the kernel itself looked at.
CALLS = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
for word in sys.argv[1:]:
    name, number = word.split("=")
    libc.syscall(ctypes.c_long(int(number)), *[ctypes.c_long(-1)] * 5)
    if ctypes.get_errno() != errno.EPERM: print(name, errno.errorcode[ctypes.get_errno()])
"""
SOCKETS = """
import errno, socket
for family in range(1, 46):
    for make in (socket.socket, socket.socketpair):
        try: make(family, socket.SOCK_RAW if family == 16 else socket.SOCK_STREAM, 0); print(family)
        except OSError as e: family in (1, 2, 10, 16) or e.errno == errno.EAFNOSUPPORT or print(family, e)
for protocol in (9, 15, 16):
    try: socket.socket(16, socket.SOCK_RAW, protocol); print("netlink", protocol)
    except OSError as e: e.errno == errno.EPROTONOSUPPORT or print("netlink", e)
"""

# Forks until the limit says no, in processes that ignore what they can, and stays.
BOMB = """
import os, signal, time
for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(name, signal.SIG_IGN)
top = os.getpid()
while True:
    try:
        if not os.fork(): os.setsid()
    except OSError:
        if os.getpid() == top: print("refused", flush=True); break
time.sleep(60)
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return podman_place(tmp_path_factory.mktemp("containers"))


@pytest.fixture(scope="module")
def shared(box):
    with box.session(memory_bytes=64 << 20, processes=40) as session:
        yield session


def containers(box) -> list[str]:
    form = f'{{{{index .Labels "{LABEL}"}}}} {{{{.Names}}}}'
    listed = box.sandbox._recipe.engine.call("ps", "--all", "--format", form).splitlines()
    return [line.split()[1] for line in listed if line.startswith(str(box.sandbox._root))]


def test_memory_that_runs_out_is_told_from_a_failure(shared):
    done = sh(shared, "tail /dev/zero")
    assert (done.status, done.returncode) == (ExecStatus.OOM, None)
    assert sh(shared, "exit 137").status is ExecStatus.EXIT
    coped = sh(shared, "tail /dev/zero || echo coped")
    assert (coped.status, coped.stdout.text) == (ExecStatus.EXIT, "coped\n")


def test_a_fork_bomb_meets_its_limit_and_is_gone_at_the_timeout(box, shared):
    done = shared.exec(["python3", "-c", BOMB], timeout=3.0)
    assert (done.status, done.stdout.text) == (ExecStatus.TIMEOUT, "refused\n")
    assert containers(box) == []
    assert sh(shared, "echo fine").stdout.text == "fine\n"


def test_the_tables_calls_are_refused(shared):
    column = seccomp.ABIS[os.uname().machine].column
    calls = [f"{name}={numbers[column]}" for name, numbers in seccomp.DENIED.items() if numbers[column] is not None]
    assert python(shared, CALLS, *calls) == ""
    assert python(shared, CALLS, f"clone3={seccomp.CLONE3}") == "clone3 ENOSYS"
    assert sh(shared, "unshare -Ur true").returncode != 0


def test_a_call_left_open_on_purpose_shows_that_the_filter_refused_it(box, tmp_path):
    open_one = ContainerSandbox(tmp_path, box.repos, cli="podman", permit=frozenset({"ptrace"}))
    with _session(open_one, box) as session:
        assert python(session, CALLS, f"ptrace={seccomp.DENIED['ptrace'][seccomp.ABIS[os.uname().machine].column]}")


def test_sockets_are_made_of_few_families(shared):
    assert set(python(shared, SOCKETS).split()) <= {"1", "2", "10", "16"}


def test_the_hosts_environment_files_and_processes_are_not_there(shared, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://marker.invalid:1")
    monkeypatch.setenv("DEVSTRAL_FIX_SECRET", "marker")
    assert "marker" not in sh(shared, "cat /proc/*/environ; env").stdout.text
    assert sh(shared, "ls /proc | grep -c '^[0-9]'").stdout.text.strip() in {"3", "4", "5", "6"}
    reads = "/etc/shadow /root/.ssh /home/agent/.ssh /git/objects/0/info/alternates"
    writes = "/etc/x /usr/x /x /dev/x /run/x /proc/sys/kernel/core_pattern /git/objects/0/x /sys/fs/cgroup/x"
    script = (
        f"for f in {reads}; do [ -r $f ] && echo read $f; done; for f in {writes}; do (: >$f) && echo wrote $f; done"
    )
    assert sh(shared, f"{{ {script}; }} 2>/dev/null; :").stdout.text == ""


def test_a_spoiled_report_is_about_the_command_only(shared):
    assert sh(shared, "echo nonsense >/.ended; exit 0").returncode == 255
    assert sh(shared, ": >/.ended; exit 125").status is ExecStatus.EXIT
    assert sh(shared, "rm -f /.ended; ln -s /etc/passwd /.ended").returncode != 0
    assert sh(shared, "exit 4").returncode == 4


def test_an_engine_that_fails_is_not_a_commands_output(box, monkeypatch):
    with box.session() as session:
        monkeypatch.setattr(container_options, "hardening", lambda: {"bad": ["--network", "no-such-network"]})
        with pytest.raises(SandboxUnavailable, match="could not start a container"):
            sh(session, "echo never")


def test_an_engine_that_is_killed_leaves_no_command_behind(box, shared):
    def kill() -> None:
        for _ in range(200):
            time.sleep(0.05)
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"run" in words and b"sleep 45.125" in words and b"podman" in words[0] and containers(box):
                    time.sleep(0.5)
                    os.kill(int(entry.name), signal.SIGKILL)
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SandboxUnavailable):
        sh(shared, "sleep 45.125", timeout=40)
    killer.join()
    assert containers(box) == []


def test_what_a_dead_process_left_is_swept_and_nothing_else(box, tmp_path):
    recipe = box.sandbox._recipe
    home = tmp_path / "sessions" / "c-dead"
    (home / "etc").mkdir(parents=True)
    (home / "lock").touch()
    for name in recipe.etc:
        (home / "etc" / name).touch()
    with box.session() as session:
        live = f"devstral-fix-test-{os.getpid()}-live"
        dead = f"devstral-fix-test-{os.getpid()}-dead"
        for name, folder in ((live, session._home), (dead, home)):
            options = recipe.options(folder, 65534, [], session._spec.limits)
            recipe.engine.call("run", "--detach", "--name", name, *options, *recipe.image, "sleep", "300")
        try:
            ContainerSandbox(tmp_path, box.repos, cli="podman")
            names = recipe.engine.call("ps", "--all", "--format", "{{.Names}}").split()
            assert (live in names, dead in names, home.exists()) == (True, False, False)
        finally:
            recipe.engine.remove(live, dead)


def test_the_level_is_what_a_first_container_showed(box):
    assert box.sandbox.capabilities >= {"no_net", "seccomp", "cgroup"}
    if box.sandbox.isolation is not Isolation.STRICT:
        with pytest.raises(IsolationMissing, match="isolation=basic"):
            ContainerSandbox(box.sandbox._root, box.repos, cli="podman", isolation=Isolation.STRICT)


def test_a_runtime_that_is_not_there_is_refused_with_words(box, tmp_path):
    with pytest.raises(IsolationMissing, match="container"):
        ContainerSandbox(tmp_path, box.repos, cli="podman", runtime="no-such-runtime")


def test_a_setting_chooses_the_backend(box, tmp_path):
    made = compose.make_sandbox(Settings(isolation=Isolation.BASIC, sandbox="container"), tmp_path, box.repos)
    with _session(made, box) as session:
        assert sh(session, "cat app.py").stdout.text.startswith("def add")


def test_what_this_machine_offers():
    found = {backend.name: backend for backend in backends.available()}
    assert list(found) == ["bwrap", "podman", "docker", "runsc"]
    assert all(backend.reason for backend in found.values())
    assert found["bwrap"].usable
    assert re.match(r"isolation=(basic|strict); .*no_net", found["bwrap"].reason)


def _session(sandbox, box):
    return replace(box, sandbox=sandbox).session()
