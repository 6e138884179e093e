"""Rows 1, 6, 8 and 11: what can be read, written and filled."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.attacks import removal
from tests.attacks.probes import FILL, FILL_FILES, LIST, OPEN, WRITABLE, inside, outside, refused_too, root
from tests.sandboxes import sh
from worker.adapters.sandbox import stage

WRITE = os.O_WRONLY
CREATE = os.O_WRONLY | os.O_CREAT


# -- 1: secrets -------------------------------------------------------------------------------------------------------


def test_secrets_of_the_host_are_not_there(session, row, tmp_path):
    secret = tmp_path / "id_ed25519"
    secret.write_text("marker")
    assert outside(OPEN, secret, os.O_RDONLY) == "open"
    for path in (secret, "/root/.bashrc", "/etc/shadow", f"/proc/1/root{secret}", f"/proc/self/root{secret}"):
        got = inside(session, OPEN, path, os.O_RDONLY)
        assert got == "ENOENT" or (got == "EACCES" and str(path).startswith("/proc/1/"))  # strict's server hides itself
        # Outside the first process is another user's: one of the caller's own stands for it.
        same = str(path).replace("/proc/1/", f"/proc/{os.getpid()}/")
        control = outside(OPEN, same, os.O_RDONLY)
        assert control == "open" or str(secret) not in same
        row(f"1 read {str(path).replace(str(secret), '…/id_ed25519')}", got, control=refused_too(control))


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
    control = outside(LIST, box.git_dir)
    assert outside(LIST, box.sandbox._root) == control == "open"
    for path in (box.sandbox._root, box.sandbox._root / "sessions", box.git_dir):
        assert inside(session, LIST, path) == "ENOENT"
    row("1 list the service's data directory", "ENOENT", control=control)


# -- 6, 8: writes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"])
def test_kernel_settings_are_read_only(session, row, path):
    got = inside(session, OPEN, path, WRITE)
    assert got in {"EACCES", "EROFS", "ENOENT"}
    control = outside(OPEN, path, WRITE)
    assert control == ("open" if root() else "EACCES") or not os.path.exists(path)  # noqa: PTH110
    row(f"6 open {path} for writing", got, control=refused_too(control))


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


REMOUNTS = {"/etc/x": "/", "/x": "/", "/git/x": "/", "/dev/x": "/dev"}


@pytest.mark.parametrize("path", REMOUNTS)
def test_the_system_is_read_only(box, session, row, monkeypatch, path):
    """What bubblewrap made is the agent's own, so only the remount keeps it closed."""
    got = inside(session, OPEN, path, CREATE)
    assert got == "EROFS"
    name = f"--remount-ro {REMOUNTS[path]}"
    removal.options(monkeypatch, removal.drop(*name.split()))
    with box.session() as bare:
        without = inside(bare, OPEN, path, CREATE)
    assert without == "open"
    row(f"8 create {path}", got, control=f"{without} without {name}")
    row(f"8 create {path}", without, without=name)


def test_programs_of_the_host_are_read_only(box, session, row, monkeypatch):
    """The control asks for the right to write and writes nothing."""
    assert inside(session, OPEN, "/sys/kernel/x", CREATE) == "ENOENT"
    got = inside(session, OPEN, "/usr/x", CREATE)
    assert got == "EROFS"
    row("8 create /usr/x", got, control=refused_too(outside(WRITABLE, "/usr")))
    removal.options(monkeypatch, removal.writable("/usr"))
    with box.session() as bare:
        without = inside(bare, WRITABLE, "/usr")
    assert without == "EACCES"
    row("8 create /usr/x", f"{without}: another uid is the second defence", without="--ro-bind of /usr")


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
    row("8 write to the object store", "EROFS", control=f"{got} without --ro-bind of /git/objects")
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


def test_one_file_is_bounded(box, row, monkeypatch, tmp_path):
    script = "head -c 2000000 /dev/zero >big; stat -c %s big"
    with box.session(file_bytes=1 << 20) as session:
        assert sh(session, script).stdout.text.split() == [str(1 << 20)]
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["2000000"]
    row("11 one large file in the workspace", "SIGXFSZ at 1 MiB", control="open")
    removal.ulimits(monkeypatch, 0, 1 << 30)
    with box.session(file_bytes=1 << 20) as session:
        assert sh(session, script).stdout.text.split() == ["2000000"]
    row("11 one large file in the workspace", "open", without="ulimit -f")


@pytest.mark.parametrize("level", ["basic"], indirect=True)
def test_the_workspace_is_not_bounded_in_basic(box, row):
    with box.session(disk_bytes=1 << 20) as session:
        got = inside(session, FILL_FILES, "/workspace/many", 500, 8192)
    assert got == "open"
    row("11 fill the workspace by many files", got, without="disk quota (strict only)")
