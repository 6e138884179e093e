"""Tool calls as models write them, understood or refused with words that help."""

from __future__ import annotations

import pytest

from agent.actions import Ready, parse, understand, unusable
from agent.errors import ToolFailure
from agent.tools import default_tools
from agent.tools.base import Parameters, spec
from agent.types import AssistantMessage, Limits, ToolCall
from tests.fakes import call, say

TOOLS = default_tools(Limits())


def understood(name: str, arguments: str) -> Ready:
    return parse(ToolCall(id="abc123def", name=name, arguments=arguments), TOOLS)


def problem(name: str, arguments: str) -> str:
    with pytest.raises(ToolFailure) as caught:
        understood(name, arguments)
    return str(caught.value)


def test_arguments_become_typed_parameters():
    ready = understood("read_file", ' {"path": "a.py", "offset": "3", "limit": null} ')
    assert ready.tool.name == "read_file"
    assert ready.params.model_dump() == {"path": "a.py", "offset": 3, "limit": None}


def test_line_breaks_that_were_not_escaped_mean_what_they_look_like():
    assert understood("bash", '{"command": "a\n\tb"}').params.command == "a\n\tb"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("readfile", "{}", "Did you mean read_file? The tools are: read_file, write_file, search_replace, grep, bash"),
        ("zzz", "{}", "there is no such tool. The tools are"),
        ("read_file", "", "parameter path is missing; expected: read_file(path: string, offset: integer = 0, limit"),
        ("read_file", '{"pth": "a"}', "there is no parameter pth (did you mean path?)"),
        ("read_file", '{"path": "a", "offset": "x"}', "parameter offset: Input should be a valid integer"),
        ("read_file", '{"path": "a", "offset": -1}', "greater than or equal to 0"),
        ("read_file", '{"path": null}', "parameter path: Input should be a valid string"),
        ("read_file", '{"path": "a\\ud800"}', "path holds a lone surrogate"),
        ("bash", '{"command": "ls"', "not valid JSON"),
        ("bash", '{"command": "ls"}}', "Extra data at character 17"),
        ("bash", "ls -la", "not valid JSON"),
        ("bash", '["ls"]', "one JSON object"),
        ("bash", "[" * 100_000, "not valid JSON"),
        ("bash", '{"command": "a", "timeout": ' + "9" * 5000 + "}", "not valid JSON"),
        ("bash", '{"command": ""}', "parameter command"),
    ],
)
def test_what_is_wrong_and_how_to_repair_it(name: str, arguments: str, said: str):
    assert said in problem(name, arguments)


def test_words_about_giant_arguments_stay_short():
    assert len(problem("bash", '{"command": "' + "x" * 100_000)) < 500


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        (say("done"), None),
        (say(""), "neither text nor a tool call"),
        (say(" \n"), "neither text nor a tool call"),
        (say("call it", finish_reason="tool_calls"), "neither text nor a tool call"),
        (say("half", finish_reason="length"), "cut off"),
        (call(("bash", '{"command": "ls"}')), None),
        (call(("bash", '{"command": "ls"}'), ("bash", '{"comm'), finish_reason="length"), None),
        (call(("bash", "{"), ("x", "{}")), "None of your tool calls"),
    ],
)
def test_an_answer_is_usable_if_anything_in_it_is(completion, said: str | None):
    told = unusable(completion, understand(completion, TOOLS))
    assert told is None if said is None else said in told


def test_an_answer_that_a_server_could_not_parse_is_not_a_summary():
    completion = say("x").model_copy(update={"message": AssistantMessage(content="x", raw="[TOOL_CALLS]bash{")})
    assert "could not be read as a tool call" in unusable(completion, [])


def test_a_call_costs_no_schema_of_its_tool(monkeypatch: pytest.MonkeyPatch):
    """Making one takes longer than the rest of the loop's step."""
    made: list[str] = []

    def counted(cls: type[Parameters], *_args: object, **_kwargs: object) -> dict[str, object]:
        made.append(cls.__name__)
        return {"properties": {}}

    for tool in TOOLS:  # whatever asked for them before
        spec(tool)
    monkeypatch.setattr(Parameters, "model_json_schema", classmethod(counted))
    for _ in range(3):
        assert isinstance(parse(call(("bash", '{"command": "ls"}')).message.tool_calls[0], TOOLS), Ready)
        with pytest.raises(ToolFailure, match="expected: bash"):
            parse(call(("bash", "{")).message.tool_calls[0], TOOLS)
    assert made == []
