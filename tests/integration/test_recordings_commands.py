"""`devstral-fix replay` and `inspect`, as a person calls them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.recording import Act, Harness, Moment, Observed, Recording, dump
from tests.sandboxes import make_source
from tests.terminals import on_a_terminal
from worker.cli import cli

ROOT = Path(__file__).parents[2]
ENV = {k: v for k, v in os.environ.items() if not k.startswith("DEVSTRAL_FIX_")} | {"PYTHONPATH": str(ROOT)}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "worker.cli", *map(str, arguments)]


def devstral_fix(*arguments: object) -> Result:
    """In this process: a start of Python costs a second each."""
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    steps = [
        ("bash", {"command": "cat app.py"}, "def add(a, b):\n    return a + b\n"),
        ("bash", {"command": "printf 'x\\n' >new.txt"}, ""),
        ("bash", {"command": "echo \x1b]0;evil\x07"}, "\x1b]0;evil\x07"),
    ]
    moments = tuple(
        Moment(
            index=i, act=Act(tool=tool, arguments=arguments), observed=Observed(text=text, exit_code=0), thought="why"
        )
        for i, (tool, arguments, text) in enumerate(steps)
    )
    path = tmp_path / "run"
    path.write_text(
        dump(Recording(harness=Harness.MINI_SWE_AGENT, version="x", task="t", root="/testbed", steps=moments[:2]))
    )
    (tmp_path / "evil").write_text(
        dump(Recording(harness=Harness.MINI_SWE_AGENT, version="x", task="t", steps=moments[2:]))
    )
    return path


def test_replay_on_a_repository_leaves_it_as_it_was(file: Path, tmp_path: Path):
    source = make_source(tmp_path / "source")
    done = devstral_fix("replay", file, "--base", source, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["recorded"], told["steps"], told["same"], told["ours"]) == (True, 2, 2, 0)
    assert sorted(path.name for path in source.iterdir() if path.name != ".git") == [
        ".gitignore",
        "app.py",
        "docs",
        "run.sh",
    ]


def test_replay_on_a_directory_and_on_nothing(file: Path, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "app.py").write_text("def add(a, b):\n    return a - b\n")
    done = devstral_fix("replay", file, "--base", tmp_path / "plain")
    assert done.exit_code == 0, done.stdout
    assert "no model ran" in done.stdout
    assert "environment: the base's own files" in done.stdout
    empty = devstral_fix("replay", file)
    assert "environment: the base's own files" in empty.stdout  # it has no app.py


def test_inspect(file: Path, tmp_path: Path):
    listed = devstral_fix("inspect", file)
    assert listed.exit_code == 0, listed.stderr
    assert "cost        not recorded" in listed.stdout
    assert "cat app.py" in listed.stdout
    one = devstral_fix("inspect", file, "--step", 1)
    assert "--- result\ndef add(a, b):\n    return a + b" in one.stdout
    assert json.loads(devstral_fix("inspect", file, "--json").stdout)["totals"]["usd"] is None
    assert json.loads(devstral_fix("inspect", file, "--json", "--step", 2).stdout)["index"] == 1
    assert devstral_fix("inspect", file, "--step", 9).exit_code == 2
    (tmp_path / "none").write_text("{}")
    refused = devstral_fix("inspect", tmp_path / "none")
    assert (refused.exit_code, "no format that is known here" in refused.stderr) == (2, True)


def test_a_recording_steers_no_terminal(file: Path, tmp_path: Path):
    for more in ((), ("--step", "1")):
        _, seen, errors = on_a_terminal(command("inspect", file.parent / "evil", *more), env=ENV, cwd=tmp_path)
        assert rb"\x1b]0;evil\x07" in seen
        assert not {0x1B, 0x07} & set(seen + errors)
