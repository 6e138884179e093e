"""The main job as a newcomer runs it: one command, real servers, processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from worker.demo.run import FIELDS, SCRIPT

pytestmark = pytest.mark.xdist_group("demo")


def demo(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", "demo", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


def test_the_demo_delivers_a_fix():
    done = demo(cwd=Path(__file__).parents[2])
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0] == "isolation=basic; scripted by hand; no language model ran"
    result = json.loads(lines[-1])
    assert list(result) == FIELDS
    assert (result["state"], result["outcome"]) == ("delivered", "fixed")
    assert (result["tests_before"], result["tests_after"]) == ("failed", "passed")
    assert result["branch"] == "devstral/issue-1"
    assert result["steps"] == 6
    assert result["usage"]["prompt"] > result["usage"]["cached"] > 0
    assert result["cost_usd"] > 0
    assert done.stdout.count("checked ") == 5
    assert "NOT TRUE" not in done.stdout


def test_one_byte_that_differs_fails_the_demo(tmp_path):
    """The script is told to expect another byte in a sandbox's result; nothing else is wrong."""
    script = SCRIPT.read_text()
    assert script.count("OK") >= 1
    changed = tmp_path / "script.json"
    changed.write_text(script.replace("'aaa', 'bbb'", "'aaa', 'bbB'", 1))
    assert changed.read_text() != script
    done = demo("--model", f"scripted:{changed}", cwd=Path(__file__).parents[2])
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert (result["state"], result["outcome"]) == ("failed", None)
    assert "differs from what the script expects" in done.stdout
