"""Rows 9, 10, 12 and 14 at level strict: every write to a control group, taken away once, and every way to end one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.protocols import Session
from tests.alive import alive, end, gone_after, wait_for
from tests.attacks import removal
from tests.attacks.probes import ALLOCATE, BURN, FORKS, SPREAD, inside
from tests.attacks.test_left_alive import hiding, left_outside
from tests.attacks.test_limits import BOUNDED_FORKS, LITTLE, MANY, QUOTAS, above, attempt
from tests.attacks.test_strict import replaced
from tests.sandboxes import sh
from worker.adapters.sandbox import cgroup, delegation, exec_server
from worker.adapters.sandbox.cgroup import Group
from worker.errors import IsolationMissing, SandboxUnavailable

pytestmark = pytest.mark.parametrize("level", ["strict"], indirect=True)


# -- limits ------------------------------------------------------------------------------------------------------------


def written(box, v1: str, v2: str) -> str:
    """The name of the file to which this machine's kind of control groups takes a limit."""
    return v1 if box.sandbox._groups.base.version == 1 else v2


def test_the_write_of_the_memory_limit(box, row, monkeypatch):
    name = written(box, "memory.limit_in_bytes", "memory.max")
    removal.group_write(monkeypatch, name)
    with box.session(memory_bytes=256 << 20) as session:
        for attack, code, size in (("400 MiB", ALLOCATE, 400), ("six times 80 MiB", SPREAD, 80)):
            got = inside(session, code, size)
            assert got == "open"
            row(f"10 allocate {attack} of 256", got, without=f"the write of {name}")


def test_the_write_of_the_limit_of_swap(box, row, monkeypatch):
    """Without it what is too much goes to the machine's swap, where there is any."""
    name = written(box, "memory.memsw.limit_in_bytes", "memory.swap.max")
    swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    with box.session(memory_bytes=256 << 20) as session:
        if not (session._limited.command.folders["memory"] / name).exists():
            pytest.skip(f"this kernel doesn't account for swap: no {name}")
    removal.group_write(monkeypatch, name)
    with box.session(memory_bytes=256 << 20) as session:
        got = attempt(session, ALLOCATE, 400)
    assert got == "open" if swap else got in {"oom", "killed"}
    said = got if swap else f"{got}: this machine has no swap"
    row("10 allocate 400 MiB of 256", said, without=f"the write of {name}")


def test_the_write_of_the_limit_of_processes(box, row, monkeypatch):
    """The prelude's own limit stands well above the group's."""
    removal.group_write(monkeypatch, "pids.max")
    with box.session(processes=60) as session:
        assert inside(session, FORKS, 120) == "open"
        row(BOUNDED_FORKS, "open: 120", without="the write of pids.max")
        assert inside(session, FORKS, MANY) == "EAGAIN"
        removal.ulimits(monkeypatch, 2, 5000)
        assert inside(session, FORKS, MANY) == "open"
        row(BOUNDED_FORKS, f"open: {MANY}", without="the write of pids.max + ulimit -u")


def test_the_write_of_the_limit_of_processor_time(box, row, monkeypatch):
    name = written(box, "cpu.cfs_quota_us", "cpu.max")
    removal.group_write(monkeypatch, name)
    with box.session(cpus=LITTLE) as session:
        used = above(QUOTAS[LITTLE], lambda: float(inside(session, BURN)))
    assert used > QUOTAS[LITTLE]
    row(f"14 four burners at {LITTLE} cpus", f"open: {used:.2f} cpu/s", without=f"the write of {name}")


def test_the_write_of_the_period_of_processor_time(box, row, monkeypatch):
    """The kernel's default is the same; the write keeps it so."""
    if box.sandbox._groups.base.version == 2:
        pytest.skip("control groups of v2 take quota and period in one write")
    removal.group_write(monkeypatch, "cpu.cfs_period_us")
    with box.session(cpus=LITTLE) as session:
        used = float(inside(session, BURN))
    assert used <= QUOTAS[LITTLE]
    second = f"{used:.2f} cpu/s: the kernel's default is the second defence"
    row(f"14 four burners at {LITTLE} cpus", second, without="the write of cpu.cfs_period_us")


def test_the_write_that_joins_a_command_to_its_group(box, row, monkeypatch, tmp_path):
    """It is the server's, inside, and nothing believes it: what stays beside the server ends the sandbox."""
    text = Path(exec_server.__file__).read_text()
    bare = text.replace('        os.write(fd, b"0")\n', "        pass\n")
    assert bare != text
    replaced(monkeypatch, tmp_path, bare)
    with box.session(processes=60) as session, pytest.raises(SandboxUnavailable, match="hid beside"):
        sh(session, "setsid sleep 60 >/dev/null 2>&1 & echo ok")
    row(
        "12 a daemon between two commands of a session",
        "SandboxUnavailable: it was seen",
        without="the join of a command's group",
    )


# -- the end -----------------------------------------------------------------------------------------------------------


def ways() -> dict[str, cgroup.Groups]:
    """The service's own way to end a group, and the other one that this machine offers, if it does."""
    mounts = Path("/proc/self/mounts").read_text()
    without_freezer = "\n".join(line for line in mounts.splitlines() if "freezer" not in line.split()[3].split(","))
    found = {}
    for text in (mounts, without_freezer):
        try:
            groups = delegation.find(mounts=text)
        except IsolationMissing:
            continue
        found.setdefault(groups.base.ender, groups)
    return found


NAMES = {"freezer": "freezing and SIGKILL", "unified": "cgroup.kill"}


@pytest.fixture(params=NAMES)
def way(request, box, monkeypatch) -> str:
    groups = ways().get(request.param)
    if groups is None:
        pytest.skip(f"no control group is ended by {NAMES[request.param]} here")
    monkeypatch.setattr(box.sandbox, "_groups", groups)
    return NAMES[request.param]


DAEMON = "12 a daemon between two commands of a session"


def daemon(session: Session, marker: str) -> None:
    sh(session, hiding(marker, "exit"), timeout=10)


def test_a_daemon_ends_with_its_command(box, row, way):
    marker = f"9873{os.getpid()}.25"
    with box.session() as session:
        daemon(session, marker)
        assert alive(f"sleep\0{marker}") == []
        assert session._limited.command.members() == set()
    row(f"{DAEMON} ({way})", "0 left", control=f"{left_outside('exit')} left")


def test_what_the_end_of_a_group_keeps_closed(box, row, monkeypatch, way):
    marker = f"9872{os.getpid()}.25"
    with box.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(Group, "kill", lambda _: None)
            daemon(session, marker)
            wait_for(lambda: len(alive(f"sleep\0{marker}")) == 2, 5)  # a shell is gone before it has become `sleep`
            left = len(alive(f"sleep\0{marker}"))
        end(f"sleep\0{marker}")
    assert left == 2
    row(f"{DAEMON} ({way})", f"open: {left} left", without=f"Group.kill ({way})")


def test_a_group_that_does_not_end_is_no_silence(box, row, monkeypatch, way):
    """The write or the signal itself is missing: the command's end is refused, not passed over."""
    marker = f"9871{os.getpid()}.25"
    monkeypatch.setattr(cgroup, "_DEATH_SECONDS", 0.5)
    with box.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(Group, "_kill_once", lambda _: None)
            with pytest.raises(SandboxUnavailable, match="could not be killed"):
                daemon(session, marker)
        end(f"sleep\0{marker}")
        gone_after(f"sleep\0{marker}", 0)
    name = "the signal" if way == NAMES["freezer"] else "the write of cgroup.kill"
    row(f"{DAEMON} ({way})", "SandboxUnavailable", without=f"{name} ({way})")
