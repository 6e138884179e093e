"""Level strict: limits that are told truthfully, a sandbox that lasts, a server that lies, and quick snapshots."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from agent.protocols import ExecStatus, Isolation
from tests.sandboxes import place, python, sh
from worker.adapters.sandbox import bases as bases_module
from worker.adapters.sandbox import cgroup, delegation, persistent, scripts
from worker.adapters.sandbox.bases import Bases
from worker.errors import IsolationMissing, SandboxUnavailable

ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    try:
        return place(
            tmp_path_factory.mktemp("strict"), isolation=Isolation.STRICT, cgroup=os.environ.get("TEST_CGROUP")
        )
    except IsolationMissing as e:
        if "TEST_CGROUP" in os.environ:  # it was delegated: there is no excuse
            raise
        pytest.skip(str(e))


@pytest.fixture
def session(box):
    with box.session() as session:
        yield session


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_fork_bomb_is_told_as_pids_and_leaves_nothing(box):
    with box.session(processes=40) as session:
        done = sh(session, "n=0; while [ $n -lt 200 ]; do sleep 60 & n=$((n+1)); done; wait", timeout=20)
        assert (done.status, done.returncode) == (ExecStatus.PIDS, None)
        assert session._limited.command.members() == set()
        assert sh(session, "echo on").stdout.text == "on\n"
    subprocess.run(["true"], check=True)


def test_memory_of_all_processes_is_limited_and_told_as_oom(box):
    with box.session(memory_bytes=256 << 20) as session:
        code = "b = bytearray(10 << 30)\nfor at in range(0, len(b), 4096): b[at] = 1"
        done = session.exec(["python3", "-c", code], timeout=60)
        assert (done.status, done.returncode) == (ExecStatus.OOM, None)
        assert sh(session, "echo on").stdout.text == "on\n"
        piece = "b = bytearray(120 << 20)\nfor at in range(0, len(b), 4096): b[at] = 1\nimport time; time.sleep(3)"
        together = sh(
            session,
            "".join(f"python3 -c '{piece}' & p{n}=$!; " for n in range(3)) + "wait $p0 && wait $p1 && wait $p2",
            timeout=60,
        )
        assert together.status is ExecStatus.OOM


def test_cpu_time_is_limited(box):
    with box.session(cpus=0.5) as session:
        burn = "for i in 1 2 3 4; do (while :; do :; done) & done; sleep 2; times | tail -1; kill 0"
        started = time.monotonic()
        before = _cpu_seconds(session)
        sh(session, burn, timeout=3.0)
        used, lasted = _cpu_seconds(session) - before, time.monotonic() - started
        assert used / lasted <= 0.6


def _cpu_seconds(session) -> float:
    """Of the group's members that are throttled: v1 counts periods and throttled time in the cpu hierarchy."""
    folder = session._limited.group.folders["cpu"]
    fields = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    if "usage_usec" in fields:
        return int(fields["usage_usec"]) / 1e6
    return int(fields["nr_periods"]) * 0.05  # each period of 0.1 s gives at most its quota of 0.05 s


@pytest.mark.parametrize(
    "script",
    [
        "head -c 100000000 /dev/zero >big",
        "i=0; while head -c 1000000 /dev/zero >f$i; do i=$((i+1)); done; false",
        "mkdir d; cd d; i=0; while : >$i; do i=$((i+1)); done 2>/dev/null; false",
    ],
    ids=["one file", "many files", "inodes"],
)
def test_the_workspace_is_limited_and_the_host_keeps_its_room(box, script):
    place = box.sandbox._root
    with box.session(disk_bytes=8 << 20) as session:
        before = os.statvfs(place).f_bfree
        done = sh(session, script, timeout=60)
        assert (done.status, done.returncode) == (ExecStatus.DISK, None)
        assert abs(os.statvfs(place).f_bfree - before) * os.statvfs(place).f_frsize < 256 << 20  # others write, too
        session.reset(box.tree)
        assert sh(session, "echo x >x").status is ExecStatus.EXIT


def test_files_do_not_eat_the_memory_of_later_commands(box):
    with box.session(memory_bytes=128 << 20, disk_bytes=300 << 20) as session:
        for name in "ab":
            assert sh(session, f"head -c 100000000 /dev/zero >{name}").status is ExecStatus.EXIT
        assert sh(session, "python3 -c 'bytearray(60 << 20)'").status is ExecStatus.EXIT


@pytest.mark.parametrize("ending", ["exit 0", "sleep 600"])
def test_survivors_are_killed_with_the_commands_group(session, ending):
    tail = "import os, time\nfor _ in range(2):\n    if os.fork(): os._exit(0)\n    os.setsid()\ntime.sleep(600)"
    script = f"trap '' TERM INT HUP; setsid sleep 600 & nohup sleep 600 & python3 -c '{tail}'; {ending}"
    sh(session, script, timeout=1.5)
    assert session._limited.command.members() == set()
    assert "sleep" not in sh(session, "cat /proc/[0-9]*/cmdline").stdout.text  # dead ones have none


# -- a sandbox that lasts ---------------------------------------------------------------------------------------------


def test_files_last_and_processes_do_not(session):
    sh(session, "echo kept >/tmp/a; echo kept >~/b; echo kept >c; sleep 600 &")
    assert (
        sh(session, "cat /tmp/a ~/b c; ps ax 2>/dev/null | grep -c '[s]leep 600'").stdout.text == "kept\n" * 3 + "0\n"
    )


def test_a_session_survives_killed_commands(session):
    for _ in range(3):
        assert sh(session, "kill -9 -1; kill -9 1; sleep 60", timeout=0.3).status in set(ExecStatus)
    assert sh(session, "sleep 60", timeout=0.0001).status is ExecStatus.TIMEOUT
    assert sh(session, "echo on").stdout.text == "on\n"


def test_commands_cannot_open_the_server(session):
    code = "import os\nfor n in ('mem', 'fd', 'environ'):\n"
    code += "    try: (os.listdir if n == 'fd' else open)(f'/proc/1/{n}'); print('open')\n"
    code += "    except OSError as e: print(type(e).__name__)"
    assert python(session, code).split() == ["PermissionError"] * 3


def test_a_command_cannot_leave_its_group(session):
    assert sh(session, "ls -d /sys/fs/cgroup; find / -name cgroup.procs 2>/dev/null; true").stdout.text == ""
    assert sh(session, "ls /proc/self/fd").stdout.text.split() == ["0", "1", "2", "3"]  # 3 is the listing itself


def test_a_sandbox_outlives_the_thread_that_opened_it(box):
    made: list = []
    opener = threading.Thread(target=lambda: made.append(box.sandbox.open(_spec(box))))
    opener.start()
    opener.join()
    try:
        assert sh(made[0], "echo on").stdout.text == "on\n"
    finally:
        made[0].close()


def _spec(box):
    from agent.protocols import SandboxSpec

    return SandboxSpec(git_dir=box.git_dir, tree=box.commit)


def test_two_sessions_on_one_base_cannot_reach_each_other(box):
    with box.session() as one, box.session() as two:
        sh(one, "echo mine >mine; echo mine >/tmp/mine; echo changed >>app.py; chmod 777 . mine")
        found = sh(two, "cat mine /tmp/mine; find / -name mine 2>/dev/null; kill -9 -1; git status --short")
        assert "mine" not in found.stdout.text
        assert two.snapshot() == box.tree
        assert one.snapshot() != box.tree
    base = next(path for path in (box.sandbox._root / "bases").iterdir() if path.is_dir())
    assert "changed" not in (base / "workspace" / "app.py").read_text()
    assert (box.sandbox._root / "bases").stat().st_mode & 0o777 == 0o700


# -- a server that lies -----------------------------------------------------------------------------------------------

LIES = {
    "garbage": 'server.send(b"\\xff{")',
    "huge": 'server.send(b"1" * 100000)',
    "long number": 'server.send(b"1" * 60 + b" 0")',
    "other": 'server.send(b"77 0")',
    "code": 'server.send(b"%d 999" % number)',
    "gone": "os._exit(0)",
    "silent": "import time; time.sleep(600)",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_server_is_bounded(box, monkeypatch, tmp_path, lie):
    monkeypatch.setattr(persistent, "_END_SECONDS", 0.5)
    with box.session() as session:
        honest = Path(persistent.exec_server.__file__).read_text()
        wrong = honest.replace(
            "                pid = os.fork()\n", f"                {LIES[lie]}\n                continue\n"
        )
        assert wrong != honest
        (tmp_path / "server.py").write_text(wrong)
        with monkeypatch.context() as patch:
            patch.setattr(persistent.exec_server, "__file__", str(tmp_path / "server.py"))
            session.reset(box.tree)
        started = time.monotonic()
        with pytest.raises(SandboxUnavailable):
            sh(session, "echo hi", timeout=1.0)
        assert time.monotonic() - started < 10
        assert session._limited.server.members() == session._limited.command.members() == set()
        assert sh(session, "echo honest").stdout.text == "honest\n"  # a new server, on the same files


def test_processes_beside_the_server_are_found(box, monkeypatch, tmp_path):
    with box.session() as session:
        honest = Path(persistent.exec_server.__file__).read_text()
        wrong = honest.replace(
            "                pid = os.fork()\n",
            "                if os.fork() == 0: _signal.pause()\n                pid = os.fork()\n",
        )
        (tmp_path / "server.py").write_text(wrong)
        with monkeypatch.context() as patch:
            patch.setattr(persistent.exec_server, "__file__", str(tmp_path / "server.py"))
            session.reset(box.tree)
        with pytest.raises(SandboxUnavailable, match="hid"):
            sh(session, "echo hi")
        assert session._limited.server.members() == set()


# -- snapshots --------------------------------------------------------------------------------------------------------

TREE = {f"d{n}/{name}": f"{n} {name}\n" * 3 for n in range(6) for name in ("a", "b.txt", "deep/c", "deep/er/d")}
TREE |= {".gitignore": "*.o\n/out/\n", "d1/.gitignore": "local\n", "top": "top\n", "x y": "space\n", "*": "star\n"}
CHANGES = r"""
echo more >>{f}
rm -f {f}
chmod +x {f}
rm -rf {d}
rm -rf {d}; echo file >{d}
rm -f {f}; mkdir -p {f}/in; echo 1 >{f}/in/x
mv {d} moved{n}
mv {d}/deep {d}/other{n}
rm -f {f}; ln -s ../top {f}
ln -s nowhere link{n}
mkfifo {d}/pipe{n}
echo o >{d}/x{n}.o
mkdir -p out; echo o >out/{n}
echo l >d1/local
mkdir -p {d}/empty{n}
mkdir -p n{n}; git init -q n{n}; echo 1 >n{n}/f
git init -q {d}; echo 1 >{d}/g
git init -q r{n}; cd r{n}; echo 1 >f; git add f; git -c user.name=a -c user.email=b commit -qm x
rm -rf {d}; mkdir -p {d}/deep; echo new >{d}/deep/c
echo u >u{n}; chmod 000 u{n}
mkdir -p l{n}; echo 1 >l{n}/f; chmod 000 l{n}
chmod 000 {d}
echo '*.txt' >>.gitignore
rm -f .gitignore
echo '!x*.o' >>d1/.gitignore
echo '* text eol=crlf' >.gitattributes
printf 'a\r\nb\r\n' >crlf{n}
touch {f}
cp -r d2 copy{n}
git mv top top{n}
git checkout -q -- .
git add -A
mkdir -p __pycache__; echo 1 >__pycache__/a.pyc
rm -f '*'
echo 1 >'*'
echo 1 >':(exclude)a'
echo 1 >"$(printf 'new\nline')"
rm -rf .git
echo 1 >'-n'
""".strip().splitlines()


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    try:
        return place(
            tmp_path_factory.mktemp("varied"), TREE, isolation=Isolation.STRICT, cgroup=os.environ.get("TEST_CGROUP")
        )
    except IsolationMissing as e:
        if "TEST_CGROUP" in os.environ:  # it was delegated: there is no excuse
            raise
        pytest.skip(str(e))


def _slow(session, monkeypatch) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "SNAPSHOT_CHANGED", scripts.SNAPSHOT)
        return session.snapshot()


def test_each_change_is_seen_as_the_slow_way_sees_it(varied, monkeypatch):
    with varied.session() as session:
        for n, change in enumerate(CHANGES):
            sh(session, change.format(f="d3/deep/c", d="d3", n=n))
            assert session.snapshot() == _slow(session, monkeypatch), change
            session.reset(varied.tree)


@pytest.mark.parametrize("seed", range(6))
def test_many_changes_are_seen_as_the_slow_way_sees_them(varied, monkeypatch, seed):
    choose = random.Random(seed)
    with varied.session() as session:
        for step in range(4):
            script = []
            for n in range(5):
                folder = f"d{choose.randrange(6)}"
                name = choose.choice([f"{folder}/a", f"{folder}/b.txt", f"{folder}/deep/c", "top", "'x y'"])
                script.append(f"({choose.choice(CHANGES).format(f=name, d=folder, n=step * 10 + n)})")
            sh(session, "\n".join(script))
            assert session.snapshot() == _slow(session, monkeypatch), "\n".join(script)


def test_more_changes_than_a_list_is_good_for_are_seen_as_the_slow_way_sees_them(varied, monkeypatch):
    with varied.session() as session:
        sh(session, "mkdir many; cd many; seq 3000 | split -a 4 -l 1 - f; cd ..; rm -r d1; echo more >>d2/a; rm top")
        assert session.snapshot() == _slow(session, monkeypatch)


# -- bases and groups -------------------------------------------------------------------------------------------------


def test_bases_are_shared_bounded_and_kept_while_used(tmp_path):
    bases = Bases(tmp_path / "bases", count=2)
    made = []

    def fill(folder: Path) -> None:
        made.append(folder)
        (folder / "workspace").mkdir()

    first = bases.take(["one"], fill)
    threads = [threading.Thread(target=lambda: bases.take(["two"], fill).release()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    for name in ("three", "four", "five"):
        bases.take([name], fill).release()
    assert first.workspace.is_dir()
    assert len([path for path in (tmp_path / "bases").iterdir() if path.is_dir()]) <= 4
    first.release()
    bases.take(["six"], fill).release()
    assert not first.workspace.is_dir()

    def broken(folder: Path) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        bases.take(["seven"], broken)
    assert not list((tmp_path / "bases").glob("making-*"))
    assert bases_module._size(tmp_path) > 0


V2 = "cgroup2 {0} cgroup2 rw 0 0\n"


def test_v2_limits_are_written_as_the_kernel_reads_them(tmp_path):
    """On a fake: our kernel binds the controllers to v1, so v2 was never tried for real."""
    group = cgroup.Group(2, dict.fromkeys(("memory", "pids", "cpu", "unified"), tmp_path / "g"), "unified")
    (tmp_path / "g").mkdir()
    for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.subtree_control", "cgroup.kill"):
        (tmp_path / "g" / name).write_text("")
    (tmp_path / "g" / "cgroup.procs").write_text("")
    (tmp_path / "g" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (tmp_path / "g" / "pids.events").write_text("max 5\n")
    group.limit_memory(1 << 20)
    group.limit_processes(7)
    group.limit_cpus(1.5)
    group.child("below")
    group.kill()
    read = {path.name: path.read_text() for path in (tmp_path / "g").iterdir() if path.is_file()}
    assert read["memory.max"] == "1048576"
    assert read["memory.swap.max"] == "0"
    assert read["pids.max"] == "7"
    assert read["cpu.max"] == "150000 100000"
    assert read["cgroup.subtree_control"] == "+memory +pids +cpu"
    assert (tmp_path / "g" / "below").is_dir()
    assert (group.oom_kills, group.refused_forks) == (2, 5)
    assert group.procs == [tmp_path / "g" / "cgroup.procs"]


def test_without_control_groups_strict_refuses_with_the_command_that_mends_it(tmp_path):
    with pytest.raises(IsolationMissing, match=r"memory, pids, cpu here; as root: mkdir .* && mount -t cgroup"):
        delegation.find(mounts="", own="")
    (tmp_path / "cgroup.controllers").write_text("memory pids cpu io")
    (tmp_path / "cgroup.subtree_control").write_text("")
    with pytest.raises(IsolationMissing, match=r"Delegate=yes"):
        delegation.find(mounts=V2.format(tmp_path), own="0::/\n")


@pytest.mark.skipif(not ROOT, reason="makes groups in the hierarchies")
def test_a_group_of_v2_is_emptied_before_it_hands_controllers_down(monkeypatch):
    """Of a container's init and its worker both are in the one group that they were given. The controller is whichever
    v2 has here: the rule is the same for each."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    found = (top / "cgroup.controllers").read_text().split() if top is not None else []
    domain = [name for name in found if name not in {"cpu", "cpuset", "pids", "perf_event"}]  # threads may share those
    if top is None or not domain:
        pytest.skip("no controller of v2 here that asks for an empty group")
    monkeypatch.setattr(delegation, "CONTROLLERS", (domain[0],))
    given = top / f"given-{os.getpid()}"
    before = (top / "cgroup.subtree_control").read_text().split()
    (top / "cgroup.subtree_control").write_text(f"+{domain[0]}")
    given.mkdir()
    try:
        with subprocess.Popen(["sleep", "600"]) as one, subprocess.Popen(["sleep", "600"]) as other:
            try:
                for process in (one, other):
                    (given / "cgroup.procs").write_text(str(process.pid))
                delegation._hand_down(given / cgroup.NAME)
                assert (given / "cgroup.subtree_control").read_text().split() == [domain[0]]
                members = (given / "service" / "cgroup.procs").read_text().split()
                assert set(members) == {str(one.pid), str(other.pid)}
            finally:
                one.kill()
                other.kill()
    finally:
        for folder in (given / "service", given):
            if folder.exists():
                cgroup._remove(folder)
        if domain[0] not in before:
            with suppress(OSError):  # in use by now
                (top / "cgroup.subtree_control").write_text(f"-{domain[0]}")


def _without(*kinds: str) -> str:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return "\n".join(line for line in lines if not any(kind in line for kind in kinds))


@pytest.mark.skipif(not ROOT, reason="makes groups in the hierarchies")
@pytest.mark.parametrize(("hidden", "ender"), [(" cgroup2 ", "freezer"), ("freezer", "unified")])
def test_a_bomb_is_ended_by_freezing_and_by_the_kernels_kill(hidden, ender):
    if delegation.find().base.version != 1:
        pytest.skip("the controllers are not of v1 here")
    try:
        group = delegation.find(mounts=_without(hidden)).make()
    except IsolationMissing as e:
        pytest.skip(f"no such kill here: {e}")
    assert group.ender == ender
    try:
        bomb = "for i in 1 2 3 4 5 6; do (while :; do sleep 0.001; done) & done; echo up; wait"
        with subprocess.Popen(
            ["sh", "-c", persistent.JOIN, "sh", *map(str, group.procs), "--", "sh", "-c", bomb], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"up\n"
            group.kill()
        assert group.members() == set()
    finally:
        group.remove()


@pytest.mark.skipif(not ROOT, reason="makes groups in the hierarchies")
def test_where_both_are_mounted_joining_waits_for_no_processor():
    """Writing to a `cgroup.procs` waits for an RCU grace period of the whole machine, unless another just did."""
    group = delegation.find().make()
    try:
        if group.version == 2 or "freezer" not in Path("/proc/self/mounts").read_text():
            pytest.skip("the freezer of v1 is not mounted here")
        assert all(path.name == "tasks" for path in group.procs)
    finally:
        group.remove()


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/workspace"])
def test_files_of_earlier_commands_take_nothing_from_a_later_ones_memory(box, folder):
    """They lie in memory, and are charged to the group that commands run in, one after the other."""
    allocate = "x = bytearray(150 << 20); x[::4096] = b'1' * len(x[::4096]); print(len(x) >> 20)"
    with box.session(memory_bytes=256 << 20, tmp_bytes=256 << 20) as session:
        size = 60 if folder == "/dev/shm" else 200
        assert sh(session, f"head -c {size << 20} /dev/zero >{folder}/kept").returncode == 0
        assert python(session, allocate) == "150"


def test_a_full_temporary_place_is_said(box):
    with box.session(tmp_bytes=8 << 20) as session:
        assert sh(session, "head -c 20000000 /dev/zero >/tmp/x").status is ExecStatus.DISK
        assert sh(session, "rm /tmp/x; false").status is ExecStatus.EXIT


def _held() -> int:
    """Namespaces and file systems in memory that this process keeps alive."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(fd.readlink()))
    return sum(link.startswith(("mnt:", "user:")) or link.endswith("/quota") for link in links)


def test_what_resets_leave_to_unmount_is_gone_when_the_session_is_closed(box, monkeypatch):
    """Also when the kernel takes its time."""
    before, gate, release = _held(), threading.Event(), persistent.Server.release
    seen: list[persistent.Server] = []

    def slow(server: persistent.Server) -> None:
        seen.append(server)
        if server is seen[0]:  # the one that the reset left
            gate.wait(20)
        release(server)

    monkeypatch.setattr(persistent.Server, "release", slow)
    with box.session() as session:
        sh(session, "touch left")
        session.reset(box.commit)
        assert sh(session, "ls left 2>&1; true").stdout.text.startswith("ls:")
        assert _held() > before
        closing = threading.Thread(target=session.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        gate.set()
        closing.join(20)
    assert _held() == before


@pytest.mark.skipif(not ROOT, reason="makes a group in the freezer hierarchy")
def test_what_a_worker_left_frozen_is_swept():
    groups = delegation.find()
    left = groups.base.child("999999999-1-frozen")
    try:
        if left.ender != "freezer":
            pytest.skip("the freezer of v1 is not mounted here")
        words = ["sh", "-c", cgroup.JOIN, "sh", *map(str, left.procs), "--", "sh", "-c", "echo in; sleep 600"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"in\n"
            (left.folders["freezer"] / "freezer.state").write_text("FROZEN")
            groups.sweep()
            assert process.wait(5) == -9
        assert not any(folder.exists() for folder in left.folders.values())
    finally:
        left.remove()


def test_groups_of_dead_processes_are_swept(box):
    base = box.sandbox._groups.base
    dead = base.child("999999999-1-abc")
    box.sandbox._groups.sweep()
    assert not any(folder.exists() for folder in dead.folders.values())


def test_a_group_that_we_made_goes_with_the_last_one_in_it(box):
    """Whichever process that belongs to, and while others make and remove theirs; one that was handed to us stays."""
    found = box.sandbox._groups
    if not found._ours:
        with box.session():
            pass
        assert found.base.folders["memory"].is_dir()
        return
    base = found.base.child(f"shared-{os.getpid()}")  # the real one may be in use by other tests
    groups = cgroup.Groups(base, ours=True)
    failed: list[OSError] = []

    def churn() -> None:
        try:
            for _ in range(40):
                made = groups.make()
                made.limit_memory(64 << 20)
                made.limit_processes(8)
                made.remove()
        except OSError as e:
            failed.append(e)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    first = groups.make()
    for thread in threads:
        thread.start()
    assert base.folders["memory"].is_dir()
    first.remove()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not any(folder.exists() for folder in base.folders.values())
    before = groups.make()
    before.remove()
    assert not any(folder.exists() for folder in base.folders.values())
