"""Directories of programs that an operator shows to sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.protocols import Isolation, SandboxSpec
from tests.sandboxes import place, sh
from worker import compose
from worker.adapters.sandbox import BadTool, ToolSandbox
from worker.errors import SettingsError
from worker.settings import Settings


def program(folder: Path, name: str, says: str) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text(f"#!/bin/sh\necho {says}\n")
    (folder / name).chmod(0o755)


def test_programs_are_found_after_a_set_ups_and_before_the_machines_and_can_not_be_changed(tmp_path):
    where = place(tmp_path / "place")
    closed = tmp_path / "home"  # as a home directory is
    program(closed / "toolchain" / "bin", "sort", "toolchain")
    program(closed / "single", "only-here", "single")
    closed.chmod(0o700)
    sandbox = ToolSandbox(where.sandbox, [closed / "toolchain", closed / "single"])
    assert sandbox.isolation is where.sandbox.isolation
    assert sandbox.capabilities == where.sandbox.capabilities
    spec = SandboxSpec(git_dir=where.git_dir, tree=where.commit)
    session = sandbox.open(spec)
    try:
        done = sh(
            session, "sort; only-here; ls -A /opt/tools | wc -l; for folder in /opt/tools/*; do touch $folder/x; done"
        )
        assert done.stdout.text.split() == ["toolchain", "single", "2"]
        assert "Read-only" in done.stderr.text
        assert str(closed) not in sh(session, "env; cat /proc/self/mountinfo | cut -d' ' -f5").stdout.text
    finally:
        session.close()
    session = sandbox.open(spec.model_copy(update={"path": ("/workspace/bin",)}))
    try:
        done = sh(session, "mkdir bin; printf '#!/bin/sh\\necho set-up\\n' >bin/sort; chmod +x bin/sort; sort")
        assert done.stdout.text == "set-up\n"
    finally:
        session.close()


def test_what_holds_secrets_is_never_shown(tmp_path, monkeypatch):
    where = place(tmp_path / "place")
    home = tmp_path / "home"
    (home / "tools").mkdir(parents=True)
    for folder in (home, tmp_path, Path("/")):
        with pytest.raises(BadTool, match="to every sandbox"):
            ToolSandbox(where.sandbox, [folder], never=[home])
    with pytest.raises(BadTool, match="no directory"):
        ToolSandbox(where.sandbox, [home / "missing"])
    ToolSandbox(where.sandbox, [home / "tools"], never=[home])
    monkeypatch.setenv("HOME", str(home))
    settings = Settings(isolation=Isolation.BASIC, tools=(home,), data_dir=tmp_path / "data", _env_file=None)
    with pytest.raises(SettingsError, match=r"DEVSTRAL_FIX_TOOLS: .* Example: DEVSTRAL_FIX_TOOLS=\["):
        compose.make_sandbox(settings, tmp_path / "sandboxes", where.repos)
