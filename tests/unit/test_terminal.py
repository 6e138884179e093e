"""What a person's terminal is sent, on a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminals import on_a_terminal
from worker.table import aligned
from worker.terminal import visible

ROOT = Path(__file__).parents[2]
RUFF = Path(sys.executable).with_name("ruff")
EVIL = "a\x1b]52;c;Zm9v\x07b\u202ec\x9b2J\x7f\u2066d\ne\rf\ud800"
SHOWN = r"a\x1b]52;c;Zm9v\x07b\u202ec\x9b2J\x7f\u2066d\ne\rf\ud800"
PATCH = b"--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-\told\n+\x1b]0;evil\x07\xe2\x80\xae\xff\n+\xc3\xa9\n"


def run(code: str, *, terminal: bool) -> bytes:
    """What `code` wrote to standard output, be it a terminal or a pipe."""
    command = [sys.executable, "-c", f"from worker import terminal\n{code}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    if not terminal:
        return subprocess.run(command, capture_output=True, check=True, env=env).stdout
    status, seen, _ = on_a_terminal(command, env=env)
    assert status == 0
    return seen


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_is_one_line_without_a_control_character(terminal):
    assert run(f"terminal.line({EVIL!r})", terminal=terminal).decode() == f"{SHOWN}\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_text_keeps_its_line_ends_and_tabs(terminal):
    assert run(r"terminal.text('a\tb\n\x1bc')", terminal=terminal) == b"a\tb\n\\x1bc\n"


def test_json_is_exact_and_ascii():
    said = run(f"terminal.data({{'name': {EVIL!r}}})", terminal=True)
    assert json.loads(said) == {"name": EVIL}
    assert all(0x20 <= byte < 0x7F for byte in said.removesuffix(b"\n"))


def test_a_diff_is_exact_in_a_pipe_and_visible_on_a_terminal():
    code = f"terminal.diff({PATCH!r})"
    assert run(code, terminal=False) == PATCH
    assert run(code, terminal=True).decode() == (
        "--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-\told\n+\\x1b]0;evil\\x07\\u202e\\xff\n+é\n"
    )


def test_columns_are_as_wide_as_what_is_shown():
    assert aligned(["who", "what"], [["a\x1bb\nc", "x"], ["d", "y"]]) == [
        "who        what",
        r"a\x1bb\nc  x",
        "d          y",
    ]


def test_letters_of_every_script_stay():
    text = "naïve 変更 עברית 👩‍💻 a\tb"
    assert visible(text) == text


@pytest.mark.parametrize("code", ["click.echo('x')\n", "click.secho('x')\n", "print('x')\n"])
def test_lint_keeps_commands_from_printing_past_it(code):
    checked = subprocess.run(
        [RUFF, "check", "--select", "TID251,T201", "--stdin-filename", "worker/commands/new.py", "-"],
        input=f"import click\n\n{code}",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert "T201" in checked.stdout or "TID251" in checked.stdout
