"""Rows 1, 6, 8, 11 and 15: what can be read, written and filled, and links that lead out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.hygiene import check
from agent.protocols import ExecStatus
from tests.attacks import removal
from tests.attacks.probes import FILL, FILL_FILES, LIST, OPEN, inside, outside, root
from tests.sandboxes import git, sh
from worker.adapters.sandbox import stage
from worker.errors import BadPatch

WRITE = os.O_WRONLY
CREATE = os.O_WRONLY | os.O_CREAT
STRICT = pytest.mark.parametrize("level", ["strict"], indirect=True)


# -- 1: secrets -------------------------------------------------------------------------------------------------------


def test_secrets_of_the_host_are_not_there(session, row, tmp_path):
    secret = tmp_path / "id_ed25519"
    secret.write_text("marker")
    control = outside(OPEN, secret, os.O_RDONLY)
    assert control == "open"
    for path in (secret, "/root/.ssh", "/etc/shadow", f"/proc/1/root{secret}", f"/proc/self/root{secret}"):
        got = inside(session, OPEN, path, os.O_RDONLY)
        assert got == "ENOENT" or (got == "EACCES" and str(path).startswith("/proc/1/"))  # strict's server hides itself
        as_is = outside(OPEN, path, os.O_RDONLY) if root() or str(secret) in str(path) else "not tried: not root's"
        name = str(path).replace(str(secret), "…/id_ed25519")
        row(f"1 read {name}", got, control=as_is)


def test_secrets_show_when_they_are_mounted(box, row, tmp_path, monkeypatch):
    """The list of mounts is the defence."""
    secret = tmp_path / "id_ed25519"
    secret.write_text("marker")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    secret.chmod(0o644)
    removal.options(monkeypatch, lambda line: [*line, "--ro-bind", str(tmp_path), "/tmp/shown"])
    with box.session() as session:
        got = inside(session, OPEN, "/tmp/shown/id_ed25519", os.O_RDONLY)
    assert got == "open"
    row("1 read …/id_ed25519", got, without="(a host folder is bound in)")


def test_other_sessions_and_the_data_directory_are_not_there(box, session, row):
    assert outside(LIST, box.sandbox._root) == "open"
    assert outside(LIST, box.git_dir) == "open"
    for path in (box.sandbox._root, box.sandbox._root / "sessions", box.git_dir):
        assert inside(session, LIST, path) == "ENOENT"
    row("1 list the service's data directory", "ENOENT", control="open")


# -- 6, 8: writes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"])
def test_kernel_settings_are_read_only(session, row, path):
    got = inside(session, OPEN, path, WRITE)
    assert got in {"EACCES", "EROFS", "ENOENT"}
    control = outside(OPEN, path, WRITE)
    assert control == ("open" if root() else "EACCES") or not os.path.exists(path)  # noqa: PTH110
    row(f"6 open {path} for writing", got, control=control)


@pytest.mark.root_only
@pytest.mark.parametrize("removed", [("uid",), ("mount",), ("uid", "mount")], ids="+".join)
def test_each_of_two_defences_keeps_core_pattern_closed(box, row, monkeypatch, removed):
    """Opened for writing, never written."""
    if "uid" in removed:
        removal.uid_drop(box, monkeypatch)
    if "mount" in removed:
        removal.options(monkeypatch, removal.drop("--ro-bind", "/proc/sys", "/proc/sys"))
    with box.session() as session:
        got = inside(session, OPEN, "/proc/sys/kernel/core_pattern", WRITE)
    assert got == "open" if len(removed) == 2 else got in {"EACCES", "EROFS"}
    names = {"uid": "uid drop", "mount": "--ro-bind /proc/sys"}
    row("6 core_pattern", got, without=" + ".join(names[name] for name in removed))


def test_the_system_is_read_only(session, row):
    for path in ("/etc/x", "/usr/x", "/x", "/dev/x", "/git/x", "/git/objects/0/x"):
        got = inside(session, OPEN, path, CREATE)
        assert got == "EROFS", path
        row(f"8 create {path}", got, control="see without")
    assert inside(session, OPEN, "/sys/kernel/x", CREATE) == "ENOENT"


@pytest.mark.parametrize(
    ("name", "path"), [("--remount-ro /", "/x"), ("--remount-ro /dev", "/dev/x")], ids=["root", "dev"]
)
def test_what_a_read_only_remount_keeps_closed(box, row, monkeypatch, name, path):
    removal.options(monkeypatch, removal.drop(*name.split()))
    with box.session() as session:
        got = inside(session, OPEN, path, CREATE)
    assert got == "open"
    row(f"8 create {path}", got, without=name)


def test_objects_of_the_trusted_repository_are_bound_read_only(box, row, monkeypatch):
    """Who may write by the file's mode is kept out by the mount: the folder is opened to everybody for this test."""
    objects = box.git_dir / "objects"
    mode = objects.stat().st_mode
    objects.chmod(0o777)
    target = "/git/objects/0/planted"
    try:
        with box.session() as session:
            assert inside(session, OPEN, target, CREATE) == "EROFS"
        removal.options(monkeypatch, removal.writable("/git/objects"))
        with box.session() as session:
            got = inside(session, OPEN, target, CREATE)
    finally:
        (objects / "planted").unlink(missing_ok=True)
        objects.chmod(mode)
    assert got == "open"
    row("8 write to the object store", "EROFS", control=got)
    row("8 write to the object store", got, without="--ro-bind of /git/objects")


# -- 11: filling ------------------------------------------------------------------------------------------------------

SIZES = {"/dev/shm": 8 << 20, "/tmp": 8 << 20, "/home/agent": 8 << 20}


def test_temporary_places_are_bounded(box, row, tmp_path):
    with box.session(tmp_bytes=8 << 20) as session:
        for folder, size in SIZES.items():
            got = inside(session, FILL, f"{folder}/x", size + 1)
            assert got == "ENOSPC"
            host = f"{tmp_path}/{Path(folder).name}"
            row(f"11 fill {folder} by one file", got, control=outside(FILL, f"{host}-one", size + 1))
            sh(session, f"rm {folder}/x")
            many = inside(session, FILL_FILES, f"{folder}/many", 3000, 4096)
            assert many == "ENOSPC"
            row(f"11 fill {folder} by many files", many, control=outside(FILL_FILES, f"{host}-many", 3000, 4096))
            sh(session, f"rm -rf {folder}/many")


def test_empty_files_are_bounded_in_temporary_places(box, row, tmp_path):
    """Each is a file of the kernel's memory, and takes nothing of a size."""
    with box.session(tmp_bytes=8 << 20) as session:
        for folder in SIZES:
            got = inside(session, FILL_FILES, f"{folder}/many", 3000, 0)
            assert got == "ENOSPC"
            control = outside(FILL_FILES, f"{tmp_path}/{Path(folder).name}", 3000, 0)
            row(f"11 fill {folder} by empty files", got, control=control)


@pytest.mark.parametrize("folder", list(SIZES))
def test_what_the_limits_of_a_temporary_place_keep_closed(box, row, monkeypatch, folder):
    removal.file_system(monkeypatch, next(name for name, target in stage.SCRATCH.items() if target == folder))
    with box.session(tmp_bytes=8 << 20) as session:
        many = inside(session, FILL_FILES, f"{folder}/many", 3000, 0)
        got = inside(session, FILL, f"{folder}/x", (8 << 20) + 1)
    assert (many, got) == ("open", "open")
    row(f"11 fill {folder} by empty files", many, without=f"nr_inodes of {folder}")
    row(f"11 fill {folder} by one file", got, without=f"the size of {folder}")


def test_one_file_is_bounded(box, row, monkeypatch):
    with box.session(file_bytes=1 << 20) as session:
        done = sh(session, "head -c 2000000 /dev/zero >big; stat -c %s big")
        assert done.stdout.text.split() == [str(1 << 20)]
        row("11 one large file in the workspace", "SIGXFSZ at 1 MiB", control="open without ulimit -f")
    removal.ulimits(monkeypatch, 0, 1 << 30)
    with box.session(file_bytes=1 << 20) as session:
        assert sh(session, "head -c 2000000 /dev/zero >big; stat -c %s big").stdout.text.split() == ["2000000"]
        row("11 one large file in the workspace", "open", without="ulimit -f")


# -- 15: links and special files ---------------------------------------------------------------------------------------


def test_links_and_pipes_lead_nowhere(box, row, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("marker")
    with box.session() as session:
        script = (
            f"ln -s {secret} a; ln -s {tmp_path} d; ln -s /etc/shadow s; mkfifo pipe; rm -rf docs; ln -s / docs;"
            f"ln -s /proc/self/root r; rm -rf .git; echo 'gitdir: {tmp_path}' >.git; ln {secret} hard"
        )
        sh(session, script)
        for path in ("a", "d/secret", "s", "docs/root/.ssh", f"r{secret}", "hard"):
            with pytest.raises(FileNotFoundError):
                session.read(path)
        with pytest.raises(OSError, match="d/new"):
            session.write("d/new", b"x")
        with pytest.raises(PermissionError):
            session.read("pipe")
        tree = session.snapshot()
        listed = git(box.git_dir, "ls-tree", "-r", tree)
        assert "\tpipe" not in listed
        modes = {line.split("\t")[1]: line.split(" ")[0] for line in listed.splitlines()}
        assert {modes[name] for name in ("a", "d", "s", "r")} == {"120000"}
        assert "marker" not in box.repos.patch(box.git_dir, box.commit, tree).diff
    assert not (tmp_path / "new").exists()
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert link.read_text() == "marker"
    row("15 read a secret through links", "FileNotFoundError", control="open on the host")
    row("15 write through a linked folder", "refused", control="open on the host")
    row("15 read a FIFO", "PermissionError, no hang", control="")


def test_a_link_that_changes_while_it_is_read(box, row, tmp_path):
    """A race between the check and the read stays inside: there is nothing outside to win."""
    secret = tmp_path / "secret"
    secret.write_text("marker")
    swap = f"import os\nwhile True:\n for t in ('{secret}', 'plain'):\n  os.symlink(t, 'n'); os.replace('n', 'x')"
    with box.session() as session:
        session.write("plain", b"harmless")
        sh(session, "ln -s plain x")
        import threading

        cancel = threading.Event()
        racer = threading.Thread(
            target=lambda: session.exec(["python3", "-c", swap], timeout=20, cancel=cancel), daemon=True
        )
        racer.start()
        seen = set()
        for _ in range(12):
            try:
                seen.add(session.read("x"))
            except OSError as e:
                seen.add(type(e).__name__.encode())
        cancel.set()
        racer.join()
    assert b"marker" not in b"".join(seen)
    row("15 swap a link during reads", "no secret", control="")


def test_device_files_cannot_be_made(session, row):
    done = sh(session, "mknod disk b 254 0 || mknod null c 1 3")
    assert done.returncode != 0
    row("15 mknod", "refused", control="needs root outside")


def test_odd_file_names_survive_a_snapshot(box, row):
    code = (
        "import os\n"
        "for name in (b'a\\nb', b'c\\x1b[2Jd', b'e\\xff\\xfef', b'-rf', b'\"q\"', b'$(touch x)', b' '):\n"
        "    open(name, 'wb').write(b'1')"
    )
    with box.session() as session:
        assert session.exec(["python3", "-c", code], timeout=20).returncode == 0
        tree = session.snapshot()
        raw = subprocess.run(
            ["git", f"--git-dir={box.git_dir}", "ls-tree", "-r", "-z", "--name-only", tree],
            check=True,
            capture_output=True,
        ).stdout.split(b"\0")
        assert {b"a\nb", b"c\x1b[2Jd", b"e\xff\xfef", b"-rf", b'"q"', b"$(touch x)", b" "} <= set(raw)
        patch = box.repos.patch(box.git_dir, box.commit, tree)
    assert "\x1b" not in patch.diff
    refused = {violation.path for violation in check(patch)}
    assert {"e\\xff\\xfef", "a\nb", "c\x1b[2Jd"} <= refused
    row("15 hostile file names", "kept as data; ESC quoted; three refused by name", control="")


def test_a_snapshot_is_bounded(box, row, monkeypatch):
    """Noise that no compression shrinks, and a file of blocks that aren't there."""
    with box.session() as session:
        sh(session, "head -c 4000000 /dev/urandom >noise; truncate -s 40M holes")
        assert session.snapshot() != box.tree
        row("15 a snapshot of noise", "taken", without="the limit of its size (64 MiB)")
    monkeypatch.setattr(box.sandbox, "_max_pack_bytes", 1 << 20)
    with box.session() as session:
        sh(session, "head -c 4000000 /dev/urandom >noise; truncate -s 40M holes")
        with pytest.raises(BadPatch, match="larger"):
            session.snapshot()
    row("15 a snapshot of noise and a hole over the limit", "BadPatch", control="taken below it")


def test_many_files_make_a_snapshot_or_an_end(box, row):
    code = "import os\nos.mkdir('many')\nfor i in range(5000): open(f'many/{i}', 'w').close()"
    with box.session() as session:
        assert session.exec(["python3", "-c", code], timeout=60).returncode == 0
        tree = session.snapshot()
        assert git(box.git_dir, "ls-tree", "-r", tree).count("\tmany/") == 5000
    row("15 5,000 empty files in a snapshot", "taken", control="")


TREES = {
    "dot-dot": b"100644 ..\0",
    "dot": b"100644 .\0",
    "dot-git": b"100644 .git\0",
    "slash": b"100644 a/b\0",
    "hfs .git": b"100644 .g\xe2\x80\x8cit\0",
    "ntfs .git": b"100644 git~1\0",
}


@pytest.mark.parametrize("name", [*TREES, "twice"])
@pytest.mark.parametrize("level", ["basic"], indirect=True)
def test_a_pack_with_a_malformed_tree_is_refused(box, row, tmp_path, name):
    """The same bytes on the host for each level: the pack is all that crosses the border."""
    folder = tmp_path / "evil.git"
    git(tmp_path, "init", "-q", "--bare", str(folder))
    blob = git(folder, "hash-object", "-w", "--stdin", stdin=b"x")
    entry = bytes.fromhex(blob)
    data = TREES[name] + entry if name in TREES else b"100644 a\0" + entry + b"100644 a\0" + entry
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=data)
    pack = subprocess.run(
        ["git", f"--git-dir={folder}", "pack-objects", "--stdout", "-q"],
        input=f"{tree}\n{blob}\n".encode(),
        capture_output=True,
        check=True,
    ).stdout
    with pytest.raises(BadPatch):
        box.repos.import_pack(box.git_dir, pack)
    assert not box.repos.has_tree(box.git_dir, tree)
    other = tmp_path / "control.git"
    git(tmp_path, "init", "-q", "--bare", str(other))
    git(other, "index-pack", "--stdin", stdin=pack)
    assert git(other, "cat-file", "-t", tree) == "tree"
    row(f"15 import a pack with a tree: {name}", "BadPatch", control="open without --strict")


def test_a_closed_session_leaves_no_files(box, row):
    homes = box.sandbox._root / "sessions"
    before = set(homes.iterdir())
    with box.session() as session:
        done = sh(session, "mkdir -p a/b; touch a/b/c; chmod 000 a/b a; mkdir -m 555 ro; mkfifo p")
        assert done.status is ExecStatus.EXIT
    assert set(homes.iterdir()) == before
    row("15 files that can't be removed", "removed", control="")


@STRICT
@pytest.mark.parametrize("how", ["one file", "many files", "empty files"])
def test_the_workspace_is_bounded(box, row, how):
    """The host's free space must not shrink by more than the quota."""
    quota = 32 << 20
    before = shutil.disk_usage(box.sandbox._root).free
    arguments = {
        "one file": (FILL, "/workspace/x", quota * 2),
        "many files": (FILL_FILES, "/workspace/many", 20_000, 8192),
        "empty files": (FILL_FILES, "/workspace/many", 20_000, 0),
    }[how]
    with box.session(disk_bytes=quota) as session:
        done = session.exec(["python3", "-I", "-c", *map(str, arguments)], timeout=60)
        used = before - shutil.disk_usage(box.sandbox._root).free
    got = "disk" if done.status is ExecStatus.DISK else done.stdout.text.strip()
    assert got in {"ENOSPC", "EDQUOT", "disk"}
    assert used < 8 * quota
    row(f"11 fill the workspace by {how}", got, control="open in basic")


@pytest.mark.parametrize("level", ["basic"], indirect=True)
def test_the_workspace_is_not_bounded_in_basic(box, row):
    """The control of the strict rows: without a quota the same many files fit."""
    with box.session(disk_bytes=1 << 20) as session:
        got = inside(session, FILL_FILES, "/workspace/many", 500, 8192)
    assert got == "open"
    row("11 fill the workspace by many files", got, without="disk quota (strict only)")


def test_paths(session: object, tmp_path: Path, row) -> None:
    for path in ("/etc/passwd", "../../etc/passwd", "/usr/x", "/workspace/../etc/x"):
        with pytest.raises(PermissionError):
            session.write(path, b"x")  # type: ignore[attr-defined]
    row("15 write outside the workspace by path", "PermissionError", control="")
