"""Which Node.js is taken: the machine's when it is new enough, else the one from a wheel, else words."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.demo import node
from worker.errors import SettingsError


def program(directory: Path, name: str, says: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho {says}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose PATH holds nothing but this directory."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(node, "_from_wheel", lambda: None)
    return tmp_path / "bin"


@pytest.fixture
def wheel(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = program(tmp_path / "wheel" / "bin", "node", "v24.1.0")
    monkeypatch.setattr(node, "_from_wheel", lambda: str(path))
    return path


def test_the_machines_own_comes_first(machine: Path, wheel: Path) -> None:
    own, npm = program(machine, "node", "v20.0.0"), program(machine, "npm", "11.0.0")
    assert node.node_command() == [str(own)]
    assert node.npm_command() == [str(npm)]


@pytest.mark.parametrize("says", ["v18.19.0", "command not found", ""])
def test_one_that_is_too_old_or_broken_is_passed_over(machine: Path, wheel: Path, says: str) -> None:
    program(machine, "node", says)
    program(machine, "npm", "11.0.0")
    assert node.node_command() == [str(wheel)]
    assert node.npm_command()[0] == str(wheel)


def test_without_the_machines_npm_the_wheels_runs_on_the_wheels_node(machine: Path, wheel: Path) -> None:
    program(machine, "node", "v22.0.0")
    command, script = node.npm_command()
    assert command == str(wheel)
    assert script == str(wheel.parents[1] / "lib/node_modules/npm/bin/npm-cli.js")


def test_none_at_all_is_told_with_what_mends_it(machine: Path) -> None:
    for ask in (node.node_command, node.npm_command):
        with pytest.raises(SettingsError, match="make setup"):
            ask()
