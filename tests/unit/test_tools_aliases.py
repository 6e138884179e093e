"""Calls in other harnesses' words do what they mean; what is offered stays the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.actions import Ready, parse, run
from agent.errors import ToolFailure
from agent.tools import default_tools
from agent.types import Action, Limits, ToolCall
from tests.fakes import FakeSession, workspace

TOOLS = default_tools(Limits())
SHOP = "def total(cart):\n    return sum(cart, 3)\n\n\ndef count(cart):\n    return len(cart)\n"


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(tmp_path, {"shop.py": SHOP, "dos.py": "a = 1\r\nb = 2\r\n"})


def ready(tool: str, arguments: dict[str, Any]) -> Ready:
    return parse(ToolCall(id="call00000", name=tool, arguments=json.dumps(arguments)), TOOLS)


def acted(session: FakeSession, tool: str, **arguments: Any) -> Action:
    return run(ready(tool, arguments), session)


def refused(tool: str, **arguments: Any) -> str:
    with pytest.raises(ToolFailure) as failure:
        ready(tool, arguments)
    return str(failure.value)


def text(session: FakeSession, name: str = "shop.py") -> str:
    return (session.root / name).read_bytes().decode()


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("edit", {"file_path": "shop.py", "old_string": "sum(cart, 3)", "new_string": "sum(cart)"}),
        ("str_replace", {"path": "/workspace/shop.py", "old_str": "sum(cart, 3)", "new_str": "sum(cart)"}),
        (
            "str_replace_editor",
            {"command": "str_replace", "path": "shop.py", "old_str": "sum(cart, 3)", "new_str": "sum(cart)",
             "view_range": None, "security_risk": "LOW"},
        ),
        (
            "search_replace",
            {"path": "shop.py", "content": "<<<<<<< SEARCH\nsum(cart, 3)\n=======\nsum(cart)\n>>>>>>> REPLACE"},
        ),
    ],
)  # fmt: skip
def test_each_form_of_an_edit_is_made(session: FakeSession, tool: str, arguments: dict[str, Any]):
    done = acted(session, tool, **arguments)
    assert done.ok, done.observation
    assert done.call.name == tool, "what the model called stays as it was written"
    assert text(session) == SHOP.replace("sum(cart, 3)", "sum(cart)")


def test_an_edit_must_name_one_place(session: FakeSession):
    done = acted(session, "edit", file_path="shop.py", old_string="(cart)", new_string="(basket)")
    assert not done.ok
    assert "is there 3 times, at line offsets 0, 4, 5" in done.observation
    assert text(session) == SHOP
    done = acted(session, "edit", file_path="shop.py", old_string="(cart)", new_string="(basket)", replace_all=True)
    assert "replaced: 3" in done.observation
    assert text(session).count("(basket)") == 3


def test_an_edit_that_misses_names_the_nearest_lines(session: FakeSession):
    done = acted(session, "edit", file_path="shop.py", old_string="  return sum(cart, 3)", new_string="x")
    assert done.ok, "a part of a line is a place"
    done = acted(
        session, "edit", file_path="shop.py", old_string="def  count(cart):\n  return len(cart)", new_string="x"
    )
    assert not done.ok
    assert "nearest lines start at line offset 4" in done.observation


def test_line_ends_are_kept(session: FakeSession):
    assert acted(session, "edit", file_path="dos.py", old_string="a = 1\nb", new_string="a = 2\nc").ok
    assert text(session, "dos.py") == "a = 2\r\nc = 2\r\n"
    assert acted(session, "insert", path="dos.py", insert_line=1, new_str="x\ny").ok
    assert text(session, "dos.py") == "a = 2\r\nx\r\ny\r\nc = 2\r\n"


def test_an_empty_old_string_makes_a_new_file_only(session: FakeSession):
    assert acted(session, "edit", file_path="new.py", old_string="", new_string="x = 1\n").ok
    assert text(session, "new.py") == "x = 1\n"
    done = acted(session, "edit", file_path="shop.py", old_string="", new_string="x = 1\n")
    assert not done.ok
    assert text(session) == SHOP


def test_the_editor_views_creates_and_inserts(session: FakeSession):
    seen = acted(session, "str_replace_based_edit_tool", command="view", path="shop.py", view_range=[5, 6])
    assert "content: def count(cart):\n    return len(cart)\nlines_read: 2" in seen.observation
    assert "lines_read: 2\n" in acted(session, "view", path="shop.py", view_range=[5, -1]).observation
    assert acted(session, "file_editor", command="create", path="made.py", file_text="y = 1\n").ok
    assert text(session, "made.py") == "y = 1\n"
    assert acted(session, "str_replace_editor", command="insert", path="made.py", insert_line=0, new_str="# top").ok
    assert text(session, "made.py") == "# top\ny = 1\n"


def test_later_releases_count_lines_from_one(session: FakeSession):
    assert "content: def count(cart):" in acted(session, "read", file_path="shop.py", offset=5, limit=1).observation


@pytest.mark.parametrize("tool", ["shell", "execute_bash"])
def test_a_shell_by_another_name(session: FakeSession, tool: str):
    assert "stdout: hi" in acted(session, tool, command="echo hi").observation


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("str_replace_editor", {"command": "dance"}, "command must be one of view, create"),
        ("str_replace_editor", {}, "command must be one of view, create"),
        ("str_replace_editor", {"command": "undo_edit", "path": "shop.py"}, "git checkout -- FILE"),
        ("str_replace_editor", {"command": "str_replace", "path": "a"}, "parameter old_string is missing"),
        ("view", {"path": "shop.py", "view_range": [5]}, "view_range is [first line, last line]"),
        ("view", {"path": "shop.py", "view_range": [9, 2]}, "ends before it begins"),
        ("edit", {"file_path": "shop.py"}, "expected: edit(file_path: string"),
        ("submit", {}, "answer with your summary and without a tool call"),
        ("read_file", {"path": "a", "file_path": "b"}, "there is no parameter file_path"),
        ("teleport", {}, "there is no such tool"),
    ],
)
def test_what_means_nothing_is_answered_with_what_to_do(tool: str, arguments: dict[str, Any], said: str):
    assert said in refused(tool, **arguments)


def test_a_path_outside_is_refused_by_every_name(session: FakeSession):
    for tool, arguments in (
        ("edit", {"file_path": "/etc/passwd", "old_string": "root", "new_string": "x"}),
        ("insert", {"path": "../x", "insert_line": 0, "new_str": "x"}),
        ("edit", {"file_path": ".git/config", "old_string": "", "new_string": "x"}),
    ):
        done = acted(session, tool, **arguments)
        assert not done.ok
        assert "outside the workspace" in done.observation or "belongs to git" in done.observation


def test_none_of_it_is_offered():
    assert [tool.name for tool in TOOLS] == ["read_file", "write_file", "search_replace", "grep", "bash", "todo"]
