"""Recordings of other harnesses: known by their shape, paired by their ids, booked once, and never 0 for unknown. The
samples are our own, in each format's form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.imports import NotRecorded, load, read
from agent.recording import Harness, Recording, dump

PATCH = "diff --git a/a.py b/a.py\nindex 1111111..2222222 100644\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"


def one(value: object) -> Recording:
    (recording,) = read(json.dumps(value).encode())
    return recording


def swe_agent(**more: object) -> dict:
    state = {"open_file": "n/a", "working_dir": "/repo"}
    return {
        "environment": "main",
        "trajectory": [
            {"action": "open a.py 3\n", "observation": "[File: a.py]\r\n1:x = 1\r\n", "response": "",
             "thought": "look\n", "state": json.dumps(state)},
            {"action": "edit 1:1\nx = (\nend_of_edit\n", "response": "", "thought": "",
             "observation": "Your proposed edit has introduced new syntax error(s). Please fix.",
             "state": json.dumps({**state, "working_dir": "/repo/src"})},
            {"action": "ls 'un closed", "observation": "", "response": "", "thought": "", "state": json.dumps(state)},
            {"action": "submit", "observation": "", "response": "", "thought": "", "state": json.dumps(state)},
        ],
        "history": [
            {"role": "system", "content": "rules"},
            {"role": "user", "content": "a demonstration", "is_demo": True},
            {"role": "assistant", "content": "not a step", "is_demo": True},
            {"role": "user", "content": "mend it"},
            *({"role": "assistant", "content": "…"} for _ in range(4)),
        ],
        "info": {
            "exit_status": "submitted",
            "submission": "\r\n" + PATCH.replace("\n", "\r\n"),
            "model_stats": {"instance_cost": 0.5, "tokens_sent": 70, "tokens_received": 8, "api_calls": 4},
        },
    } | more  # fmt: skip


def test_swe_agent():
    found = one(swe_agent())
    assert (found.harness, found.version, found.task, found.system) == (Harness.SWE_AGENT, "0.x", "mend it", "rules")
    assert [step.act.tool for step in found.steps] == ["open", "edit", "bash", "submit"]
    assert found.steps[0].act.arguments == {"path": "a.py", "line_number": 3}
    assert found.steps[0].observed.text == "[File: a.py]\n1:x = 1\n"
    assert found.steps[1].act.arguments == {"first": 1, "last": 1, "text": "x = ("}
    assert [step.observed.refused for step in found.steps] == [False, True, False, False]
    assert [step.cwd for step in found.steps] == [
        None,
        "/repo",
        "/repo/src",
        "/repo",
    ]  # a state is that after its action
    assert found.patch == PATCH
    assert (found.totals.usd, found.totals.tokens.prompt, found.totals.tokens.cached) == (0.5, 70, None)
    assert all(step.call is None for step in found.steps)  # only the run has a cost


def test_swe_agents_zeros_are_unknown():
    found = one(swe_agent(info={"model_stats": {"instance_cost": 0, "tokens_sent": 0, "tokens_received": 0}}))
    assert (found.totals.usd, found.totals.tokens.prompt, found.model, found.patch) == (None, None, None, None)


def test_swe_agents_native_calls_have_their_arguments_from_the_history():
    call = {"id": "c1", "function": {"name": "edit", "arguments": json.dumps({"search": "a 'b'", "replace": "c"})}}
    found = one({
        "trajectory": [
            {"action": "edit 'a …' 'c'", "observation": "ok", "thought": "t", "state": {"working_dir": "/w"}}],
        "history": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "t", "tool_calls": [call]}],
        "info": {},
        "replay_config": json.dumps({"env": {"repo": {"base_commit": "b" * 40}}}),
    })  # fmt: skip
    assert found.steps[0].act.arguments == {"search": "a 'b'", "replace": "c"}
    assert (found.version, found.root, found.base_commit) == ("1.x", "/w", "b" * 40)


def mini() -> dict:
    def result(name: str, text: str, code: int) -> dict:
        return {"role": "tool", "tool_call_id": name, "content": "…", "extra": {"raw_output": text, "returncode": code}}

    usage = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}
    return {
        "trajectory_format": "mini-swe-agent-1.1",
        "instance_id": "a__b-1",
        "info": {"exit_status": "Submitted", "submission": PATCH,
                 "model_stats": {"instance_cost": 0.03, "api_calls": 2},
                 "config": {"model": {"model_name": "m"}, "environment": {"cwd": "/testbed"}}},
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "task"},
            {"role": "assistant", "content": "two at once", "extra": {
                "actions": [{"command": "ls", "tool_call_id": "1"}, {"command": "false", "tool_call_id": "2"}],
                "cost": 0.02, "response": {"id": "r1", "usage": usage}}},
            result("2", "", 1),
            result("1", "a.py\r\n", 0),
            {"role": "assistant", "content": "done", "tool_calls": [
                {"id": "3", "function": {"name": "bash", "arguments": '{"command": "echo SUB'}}],
             "extra": {"cost": 0.01}},
            {"role": "exit", "content": "", "extra": {"exit_status": "Submitted"}},
        ],
    }  # fmt: skip


def test_mini_is_paired_by_ids_and_booked_once_a_call():
    found = one(mini())
    assert [(s.act.arguments["command"], s.observed and s.observed.exit_code, s.call) for s in found.steps[:2]] == [
        ("ls", 0, 0), ("false", 1, 0)]  # fmt: skip
    assert found.steps[0].observed.text == "a.py\n"
    assert (found.steps[0].thought, found.steps[1].thought) == ("two at once", "")
    assert found.steps[2].observed is None
    assert "no JSON" in found.steps[2].act.problem
    assert len(found.calls) == 2
    assert (found.calls[0].tokens.cached, found.calls[1].tokens.prompt) == (60, None)
    assert found.totals.tokens.prompt is None  # of one call it is not known, so of all it isn't
    assert (found.totals.usd, found.totals.calls, found.model) == (0.03, 2, "m")


def test_minis_message_list():
    block = "```mswea_bash_command\n{}\n```"
    found = one([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "task"},
        {"role": "assistant", "content": "think\n" + block.format("echo hi")},
        {"role": "user", "content": "<returncode>0</returncode>\n<output>\nhi\n</output>"},
        {"role": "assistant", "content": block.format("a") + block.format("b")},
        {"role": "user", "content": "one at a time"},
        {"role": "assistant", "content": block.format("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")},
        {"role": "user", "content": ""},
    ])  # fmt: skip
    assert found.steps[0].act.arguments["command"] == "echo hi"
    assert (found.steps[0].thought, found.steps[0].observed.text, found.steps[0].observed.exit_code) == (
        "think",
        "hi\n",
        0,
    )
    assert found.steps[1].act.problem == "2 actions in place of one"
    assert (found.exit_status, found.totals.usd, found.model) == ("Submitted", None, None)


def output(costs: list[float]) -> dict:
    return {
        "issue": {"owner": "o", "repo": "r", "number": 3},
        "instruction": "do it",
        "base_commit": "",
        "git_patch": PATCH,
        "history": [
            {"action": "message", "content": "do it"},
            {"action": "run", "command": "false", "thought": "try"},
            {"observation": "run", "content": "x\r\n", "exit_code": 1},
            {"action": "finish", "thought": "done", "outputs": {}},
        ],
        "metrics": {"accumulated_cost": 0.3, "costs": costs},
        "error": None,
    }


def test_openhands_output_pairs_costs_only_where_they_are_as_many():
    lines = "".join(json.dumps(output(costs)) + "\n" for costs in ([0.1, 0.2], [0.1, 0.1, 0.1])).encode()
    first, second = read(lines)
    assert [step.act.tool for step in first.steps] == ["bash", "finish"]
    assert first.steps[0].observed.exit_code == 1
    assert first.steps[1].observed is None
    assert (first.base_commit, first.repository, first.exit_status) == (None, "o/r", "finish")
    assert [step.call for step in first.steps] == [0, 1]
    assert [step.call for step in second.steps] == [None, None]
    assert "3 costs for 2 actions" in second.notes[0]


def test_openhands_results_are_without_what_the_terminal_and_the_notebook_add():
    value = output([])
    around = "\r\nroot@bcd3959393a1:/workspace # "
    notebook = "\n[Jupyter current working directory: /workspace]\n[Jupyter Python interpreter: /usr/bin/python]"
    refused = "[Your proposed edit has introduced new syntax error(s). …]"
    value["history"] = [
        {"action": "run", "command": "touch x"},
        {"observation": "run", "content": around, "exit_code": 0},
        {"action": "run_ipython", "code": "print(1)"},
        {"observation": "run_ipython", "content": f"1{notebook}"},
        {"action": "run_ipython", "code": "edit_file_by_replace(…)"},
        {"observation": "run_ipython", "content": f"{refused}{notebook}"},
    ]
    (found,) = read((json.dumps(value) + "\n").encode())
    seen = [(step.observed.text, step.observed.refused) for step in found.steps]
    assert seen == [("", False), ("1", False), (refused, True)]


def event(number: int, response: str, **more: object) -> dict:
    given = json.dumps({"command": "create", "path": f"/workspace/{number}", "file_text": "x"})
    call = {"id": f"c{number}", "function": {"arguments": given}}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    meta = {"tool_call_id": f"c{number}", "model_response": {
        "id": response, "model": "m", "usage": usage, "choices": [{"message": {"tool_calls": [call]}}]}}  # fmt: skip
    return {
        "id": number,
        "source": "agent",
        "action": "edit",
        "args": {"thought": "t"},
        "tool_call_metadata": meta,
    } | more


def edited(number: int, cause: int, content: str) -> dict:
    said = {"source": "agent", "observation": "edit", "content": "diff", "extras": {"new_content": content}}
    return {"id": number, "cause": cause} | said


def test_openhands_events_are_joined_by_cause_and_a_shared_call_is_booked_once():
    found = one([
        {"id": 0, "source": "user", "action": "message", "args": {"content": "make files"}},
        event(3, "r1"),
        event(4, "r1"),
        edited(9, 4, "four"),
        edited(8, 3, "three"),
    ])  # fmt: skip
    assert [step.observed.text for step in found.steps] == ["three", "four"]
    assert [step.act.arguments["path"] for step in found.steps] == ["/workspace/3", "/workspace/4"]
    assert [step.call for step in found.steps] == [0, 0]
    assert (found.totals.tokens.prompt, found.totals.tokens.cached, found.totals.usd) == (10, 4, None)


LOG = """##### LLM INPUT #####
================================ System Message ================================

Write a test.
- Base commit (buggy version): {base}
================================ Human Message =================================

Begin.
================================== Ai Message ==================================

Thought: look around
Tool Calls:
  command (abc)
 Call ID: abc
  Args:
Invalid Tool Calls:
  command (def)
 Call ID: def
  Error: Function command arguments:

ls | head -3

are not valid JSON. Received JSONDecodeError Expecting value
================================ Human Message =================================

Observation:
No valid action.
================================== Ai Message ==================================

I read it:read_file>/testbed/a.py</read_file>
================================ Human Message =================================

Observation:
x = 1
================================ Human Message =================================

REMINDER: hurry
================================== Ai Message ==================================

Action: <write_file><file_path>/testbed/t.py</file_path><content>
assert 1 < 2
</content></write_file>
================================ Human Message =================================

Observation:
File written: /testbed/t.py

##### LLM OUTPUT #####
================================== Ai Message ==================================

<finish>None</finish>
##### LLM LAST COST #####
0.0000"""


def test_the_devstral_call_log_with_its_broken_tool_calls(tmp_path: Path):
    (tmp_path / "call.txt").write_text(LOG.format(base="c" * 40))
    (tmp_path / "any.json").write_text(
        json.dumps({"agentless_patch": PATCH, "new_patch": "the fix", "success": True, "instance_id": "a__b-2"})
    )
    (found,) = load(tmp_path)
    native, lost, whole, last = found.steps
    assert native.act.arguments == {"unparsed": "ls | head -3"}
    assert "native tool-call tokens" in native.act.problem
    assert (native.thought, native.observed.refused) == ("look around", True)
    assert (lost.act.tool, lost.act.arguments, lost.act.problem) == ("read_file", {"path": "/testbed/a.py"}, None)
    assert lost.thought == "I read it:"
    assert lost.observed.text == "x = 1\n\nREMINDER: hurry"
    assert whole.act.arguments == {"path": "/testbed/t.py", "content": "assert 1 < 2\n"}
    assert (last.act.tool, last.observed) == ("finish", None)
    assert (found.base_commit, found.patch, found.purpose) == ("c" * 40, PATCH, "test")
    assert found.totals.usd is None  # 0.0000 means that nobody counted
    assert "1 actions had lost the <" in found.notes[0]


@pytest.mark.parametrize("value", [swe_agent(), mini(), output([0.1])])
def test_a_recording_is_a_file_of_its_own_format(tmp_path: Path, value: dict):
    found = one(value)
    (tmp_path / "x").write_text(dump(found))
    assert load(tmp_path / "x") == (found,)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b'{"a": 1}\n{"b": 2}\n',
        b"\xff\xfe",
        b'{"trajectory": [3], "history": []}',
        b"[" * 9999,
    ],
)
def test_what_is_no_recording_is_said_to_be_none(data: bytes):
    with pytest.raises(NotRecorded):
        read(data)


def test_a_broken_line_is_named():
    with pytest.raises(NotRecorded, match="line 2"):
        read(json.dumps(output([])).encode() + b"\n{broken\n")
