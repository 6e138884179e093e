"""`todo`: the list that one agent keeps, as the model sees it, as text, and after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.actions import parse
from agent.errors import ToolFailure
from agent.resume import Progress, replay
from agent.talk import Talk
from agent.tools import default_tools
from agent.tools.base import spec
from agent.tools.todo import Todo
from agent.types import Action, Limits, Step, ToolCall, Usage
from tests.fakes import FakeModel, FakeSession, call, workspace


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(tmp_path, {})


def todo(tool: Todo, session: FakeSession, **arguments: Any) -> str:
    ready = parse(ToolCall(id="abc123def", name="todo", arguments=json.dumps(arguments)), [tool])
    return tool.run(session, ready.params)


def items(*contents: str) -> list[dict[str, str]]:
    return [{"id": str(index), "content": content} for index, content in enumerate(contents)]


def test_a_written_list_is_shown_whole_and_read_back(session: FakeSession):
    tool = Todo()
    plan = [{"id": "a", "content": "Fix\nit", "status": "in_progress", "priority": "high"}, *items("Test it")]
    written = todo(tool, session, action="write", todos=plan)
    message, shown, count = written.split("\n")
    assert (message, count) == ("message: Updated 2 todos", "total_count: 2")
    assert json.loads(shown.removeprefix("todos: ")) == [
        {"id": "a", "content": "Fix\nit", "status": "in_progress", "priority": "high"},
        {"id": "0", "content": "Test it", "status": "pending", "priority": "medium"},
    ]
    assert todo(tool, session, action="read") == written.replace("Updated", "Retrieved")
    assert tool.plan() == "[>] Fix it\n[ ] Test it"


def test_writing_replaces_the_list_and_none_empties_it(session: FakeSession):
    tool = Todo()
    todo(tool, session, action="write", todos=items("one", "two"))
    todo(tool, session, action="write", todos=items("three"))
    assert tool.plan() == "[ ] three"
    todo(tool, session, action="write", todos=[])
    assert tool.plan() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"action": "write"}, "todos is missing"),
        ({"action": "write", "todos": items(*"x" * 101)}, "101 todos are too many; at most 100"),
        ({"action": "write", "todos": [*items("a"), *items("b")]}, "the id '0' is there more than once"),
        ({"action": "write", "todos": items("x" * 9000)}, "at most 8000 can be kept"),
        ({"action": "delete"}, "parameter action: Input should be 'read' or 'write'"),
        ({"action": "write", "todos": [{"id": "1"}]}, "parameter todos.0.content is missing"),
        ({"action": "write", "todos": [{"id": "1", "content": "x", "status": "done"}]}, "parameter todos.0.status"),
    ],
)
def test_a_refused_list_changes_nothing(session: FakeSession, arguments: dict[str, Any], said: str):
    tool = Todo()
    todo(tool, session, action="write", todos=items("kept"))
    with pytest.raises(ToolFailure) as caught:
        todo(tool, session, **arguments)
    assert said in str(caught.value)
    assert tool.plan() == "[ ] kept"


def test_each_agent_has_a_list_of_its_own(session: FakeSession):
    one, other = (next(tool for tool in default_tools(Limits()) if isinstance(tool, Todo)) for _ in range(2))
    todo(one, session, action="write", todos=items("mine"))
    assert other.plan() == ""


def test_the_offered_schema_is_whole():
    entry = spec(Todo()).parameters["properties"]["todos"]["items"]
    assert entry["required"] == ["id", "content"]
    assert entry["properties"]["status"]["enum"] == ["pending", "in_progress", "completed", "cancelled"]
    assert "$ref" not in json.dumps(spec(Todo()).parameters)


def test_a_resume_restores_the_list_of_the_last_call_that_succeeded():
    tools = default_tools(Limits())
    plan = next(tool for tool in tools if isinstance(tool, Todo))
    turns = [(items("first"), True), (items("second", "third"), True), (items("refused"), False)]
    answers = [call(("todo", json.dumps({"action": "write", "todos": todos}))) for todos, _ in turns]
    steps = tuple(
        Step(
            index=index,
            thought="",
            actions=(Action(call=answer.message.tool_calls[0], observation="", ok=ok, seconds=0),),
            usage=Usage(),
            usd=0,
            model_seconds=0,
            answer=answer.message,
        )
        for index, (answer, (_, ok)) in enumerate(zip(answers, turns, strict=True))
    )
    talk = Talk(FakeModel(), "", [])
    talk.restart("task")
    replay(talk, Progress(steps=steps), tools)
    assert plan.plan() == "[ ] second\n[ ] third"
