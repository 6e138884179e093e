"""The text of grammars; that vLLM takes them, and answers by them, is in `make test-engine`."""

from __future__ import annotations

import json

from agent.types import ToolSpec
from worker.adapters.engine.grammar import Marks, forced_call, forced_text, one_of

MARKS = Marks(9, 32)
TOOLS = (
    ToolSpec(name="read_file", description="d", parameters={"type": "object", "properties": {"path": {}}}),
    ToolSpec(name="bash", description="d", parameters={"type": "object", "required": ["command"]}),
)


def test_a_forced_call_is_the_very_text_between_the_two_marks() -> None:
    grammar = forced_call("bash", {"command": 'echo "ä" \\n\n'}, MARKS)
    head, text = grammar.removesuffix("\n").split(" <[32]> ")
    assert head == 'start: <[9]> "bash"'
    assert json.loads(json.loads(text)) == {"command": 'echo "ä" \\n\n'}


def test_a_forced_text_is_a_string_of_its_own() -> None:
    assert forced_text('so: "done"') == 'start: "so: \\"done\\""\n'


def test_one_call_of_any_tool_has_each_tools_schema_without_free_blanks() -> None:
    start, read, bash = one_of(TOOLS, MARKS).replace("start: ", "start: | ").split(" | ")
    assert start == "start:"
    assert read.startswith('(<[9]> "read_file" <[32]> %json {"x-guidance": {"whitespace_flexible": false}')
    assert bash.rstrip().endswith('"required": ["command"]})')
