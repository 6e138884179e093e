"""Row 15: links, special files, odd names and malformed trees that would lead out of a workspace."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from agent.errors import NotSaved
from agent.hygiene import check
from agent.protocols import ExecStatus, Isolation
from tests.alive import wait_for
from tests.attacks.probes import refused_too, root
from tests.sandboxes import git, sh
from worker.errors import BadPatch


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
    (tmp_path / "link").symlink_to(secret)
    assert (tmp_path / "link").read_text() == "marker"
    row("15 read a secret through links", "FileNotFoundError", control="open: read on the host")
    (tmp_path / "d").symlink_to(tmp_path)
    (tmp_path / "d/new").write_text("x")
    assert (tmp_path / "new").exists()
    row("15 write through a linked folder", "refused", control="open: written on the host")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["cat", tmp_path / "pipe"], check=False, timeout=0.5)
    row("15 read a FIFO", "PermissionError, no hang", control="open: hangs for 0.5 s and on")


def test_a_link_that_changes_while_it_is_read(box, row, tmp_path):
    """A race between the check and the read stays inside: there is nothing outside to win. In strict a read waits for
    the command: there is no race at all."""
    waits = box.sandbox.isolation is Isolation.STRICT
    secret = tmp_path / "secret"
    secret.write_text("marker")
    swap = f"import os\nwhile True:\n for t in ('{secret}', 'plain'):\n  os.symlink(t, 'n'); os.replace('n', 'x')"
    cancel = threading.Event()
    with box.session() as session:
        session.write("plain", b"harmless")
        sh(session, "ln -s plain x")

        def race() -> None:
            session.exec(["python3", "-c", swap], timeout=1 if waits else 20, cancel=cancel)

        racer = threading.Thread(target=race, daemon=True)
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
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "plain").write_text("harmless")
    (folder / "x").symlink_to("plain")
    with subprocess.Popen([sys.executable, "-c", swap], cwd=folder) as swapping:
        read = wait_for(lambda: (folder / "x").read_text() == "marker", 20)
        swapping.kill()
    assert read
    row(
        "15 swap a link during reads",
        "no secret: reads wait" if waits else "no secret",
        control="open: the secret on the host",
    )


def test_device_files_cannot_be_made(session, row, tmp_path):
    """Outside the harmless one only."""
    done = sh(session, "mknod disk b 254 0 || mknod null c 1 3")
    assert done.returncode != 0
    made = subprocess.run(["mknod", tmp_path / "null", "c", "1", "3"], capture_output=True, check=False).returncode == 0
    assert made == root()
    row("15 mknod", "refused", control="open" if made else refused_too("EPERM"))


def test_odd_file_names_survive_a_snapshot(box, row, tmp_path):
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
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    shown = subprocess.run(["ls"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert b"\x1b[2J" in shown
    row("15 hostile file names", "kept as data; ESC quoted; three refused", control="open: `ls` prints ESC")


def test_a_snapshot_is_bounded(box, row, monkeypatch):
    """Noise that no compression shrinks, and a file of blocks that aren't there. The run goes on from its last good
    tree: the model is told, and what becomes of the run is in tests/unit/test_loop.py and test_pursue.py."""
    with box.session() as session:
        sh(session, "head -c 4000000 /dev/urandom >noise; truncate -s 40M holes")
        assert session.snapshot() != box.tree
        row("15 a snapshot of noise and a hole over the limit", "taken", without="the limit of 1 MiB (64 instead)")
    monkeypatch.setattr(box.sandbox, "_max_pack_bytes", 1 << 20)
    with box.session() as session:
        sh(session, "head -c 4000000 /dev/urandom >noise; truncate -s 40M holes")
        with pytest.raises(NotSaved, match="larger"):
            session.snapshot()
        sh(session, "rm noise holes")
        assert session.snapshot() == box.tree
    row(
        "15 a snapshot of noise and a hole over the limit",
        "not saved; the session goes on",
        control="taken with the limit of 64 MiB",
    )


def test_many_files_make_a_snapshot_or_an_end(box, row):
    code = "import os\nos.mkdir('many')\nfor i in range(5000): open(f'many/{i}', 'w').close()"
    with box.session() as session:
        assert session.exec(["python3", "-c", code], timeout=60).returncode == 0
        tree = session.snapshot()
        assert git(box.git_dir, "ls-tree", "-r", tree).count("\tmany/") == 5000
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        subprocess.run([sys.executable, "-c", code], cwd=name, check=True)
        assert len(list(Path(name, "many").iterdir())) == 5000
    row("15 5,000 empty files in a snapshot (wanted)", "taken", control="made outside, too")


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
    row(f"15 import a pack with a tree: {name}", "BadPatch", control="open: taken by index-pack without --strict")


STUBBORN = "mkdir -p a/b; touch a/b/c; chmod 000 a/b a; mkdir -m 555 ro; mkfifo p"


def test_a_closed_session_leaves_no_files(box, row, tmp_path):
    homes = box.sandbox._root / "sessions"
    before = set(homes.iterdir())
    with box.session() as session:
        assert sh(session, STUBBORN).status is ExecStatus.EXIT
    assert set(homes.iterdir()) == before
    # Root may remove anything: its control is the uid that made them.
    drop = [*["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]] if root() else []
    with tempfile.TemporaryDirectory(prefix="df-", dir="/tmp") as name:
        folder = Path(name, "mine")
        folder.mkdir()
        if root():
            Path(name).chmod(0o711)
            os.chown(folder, 65534, 65534)
        words = [*drop, "sh", "-c", f"{STUBBORN}; rm -rf a ro p"]
        done = subprocess.run(words, cwd=folder, capture_output=True, check=False)
        assert (done.returncode, [path.name for path in folder.iterdir()]) == (1, ["a"])
        (folder / "a").chmod(0o700)
        (folder / "a/b").chmod(0o700)
    row("15 files that can't be removed", "removed", control="open: left by the same user's rm -rf")


def test_paths(session, row, tmp_path):
    for path in ("/etc/passwd", "../../etc/passwd", "/usr/x", "/workspace/../etc/x"):
        with pytest.raises(PermissionError):
            session.write(path, b"x")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "../passwd").write_bytes(b"x")
    assert (tmp_path / "passwd").read_bytes() == b"x"
    row("15 write outside the workspace by path", "PermissionError", control="open: written on the host")
