"""A Devstral call log: the last model call of a run with its whole prompt, in turns between rules of `=`, and beside it
a JSON result.

The action is one tag in an answer. Devstral 2 was seen to break it in two ways that this harness recorded: its native
tool-call tokens came through a client that split them into a call without arguments and an `Invalid Tool Calls` entry;
and the `<` of the opening tag was lost (`…to it:read_file>path</read_file>`), which the harness let pass. The first is
kept as an action that could not be run, the second is read as what was meant and noted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agent.imports.shape import patch, plain
from agent.recording import Act, Call, Harness, Moment, Observed, Recording, total

_SECTION = re.compile(r"^#{5} LLM (INPUT|OUTPUT|LAST COST) #{5}$", re.MULTILINE)
_TURN = re.compile(r"^={10,} (System|Human|Ai|Tool) Message ={10,}$", re.MULTILINE)
_TAGS = ("command", "read_file", "write_file", "verify_test", "finish")
_TAG = re.compile(rf"(?P<open><?)\b(?P<tag>{'|'.join(_TAGS)})>(?P<body>.*?)(?:</(?P=tag)>|\Z)", re.DOTALL)
_FILE = re.compile(r"<file_path>(?P<path>.*?)</file_path>\s*<content>\n?(?P<content>.*?)</content>", re.DOTALL)
_INVALID = re.compile(
    r"^Invalid Tool Calls:\n\s*(?P<name>\S+) .*?arguments:\n\n(?P<text>.*?)\n\nare not valid JSON",
    re.DOTALL | re.MULTILINE,
)
_BASE = re.compile(r"^- Base commit[^:\n]*: ([0-9a-f]{40})$", re.MULTILINE)


def fits(data: bytes) -> bool:
    return data.lstrip()[:24].startswith(b"##### LLM INPUT #####")


def read(data: bytes, beside: Sequence[Any]) -> Recording:
    text = plain(data.decode("utf-8", "replace"))
    parts = _SECTION.split(text)[1:]
    sections = dict(zip(parts[0::2], parts[1::2], strict=True))
    turns = _turns(sections.get("INPUT", "")) + _turns(sections.get("OUTPUT", ""))
    system = next((said for who, said in turns if who == "System"), "")
    steps: list[Moment] = []
    lost = 0
    for who, said in turns:
        if who == "Ai":
            thought, act, mended = action(said)
            lost += mended
            steps.append(Moment(index=len(steps), thought=thought, act=act, call=len(steps)))
        elif who in ("Human", "Tool") and steps:
            steps[-1] = _with(steps[-1], said)
    result = next((value for value in beside if isinstance(value, dict) and "agentless_patch" in value), {})
    base = _BASE.search(system)
    broken = sum(step.act.problem is not None for step in steps)
    notes = [
        *([f"{lost} actions had lost the < of their tag and are read as they were meant"] if lost else []),
        *([f"{broken} answers held no action that could be run"] if broken else []),
        "the last answer's result is not in the log",
        *([] if result else ["there is no result beside the log: no patch, no model"]),
    ]
    instance = result.get("instance_id")
    return Recording(
        harness=Harness.CALL_LOG,
        version="call log",
        purpose="test",  # it was shown the fix, and asked for a test
        task=next((said for who, said in turns if who == "Human"), "").strip(),
        system=system,
        instance_id=instance,
        base_commit=base[1] if base else None,
        root="/testbed",
        steps=tuple(steps),
        calls=tuple(Call() for _ in steps),
        totals=total((), count=len(steps)),
        exit_status=None if not result else "success" if result.get("success") else "failed",
        reason=result.get("exception"),
        patch=patch(result.get("agentless_patch")),
        notes=tuple(notes),
    )


def action(answer: str) -> tuple[str, Act, bool]:
    """(thought, what was asked for, whether its tag had to be mended)."""
    if invalid := _INVALID.search(answer):
        thought = answer.partition("\nTool Calls:")[0]
        problem = "native tool-call tokens: the client made a call without arguments of it, and one that is no JSON"
        return (
            _thought(thought),
            Act(tool=invalid["name"], arguments={"unparsed": invalid["text"]}, problem=problem),
            False,
        )
    found = next((match for match in _TAG.finditer(answer) if match["open"]), None) or _TAG.search(answer)
    if found is None:
        return _thought(answer), Act(tool="answer", problem="there is no action in it"), False
    return _thought(answer[: found.start()]), _act(found["tag"], found["body"]), not found["open"]


def _act(tag: str, body: str) -> Act:
    if tag == "write_file":
        file = _FILE.search(body)
        if file is None:
            return Act(tool=tag, arguments={"unparsed": body}, problem="it has no file_path and content")
        return Act(tool=tag, arguments={"path": file["path"].strip(), "content": file["content"]})
    name = {"command": "bash", "read_file": "read_file"}.get(tag, tag)
    key = {"bash": "command", "read_file": "path"}.get(name, "text")
    return Act(tool=name, arguments={key: body.strip()})


def _thought(text: str) -> str:
    return re.sub(r"\s*Action:\s*\Z", "", text.strip()).removeprefix("Thought:").strip()


def _with(step: Moment, said: str) -> Moment:
    """The step with its result; what else is said before the next answer is a reminder."""
    text = said.strip("\n").removeprefix("Observation:\n").removeprefix("Observation:")
    if step.observed is None:
        refused = step.act.problem is not None
        return step.model_copy(update={"observed": Observed(text=text, refused=refused)})
    joined = step.observed.model_copy(update={"text": f"{step.observed.text}\n\n{text}"})
    return step.model_copy(update={"observed": joined})


def _turns(section: str) -> list[tuple[str, str]]:
    parts = _TURN.split(section)[1:]
    return [
        (who, said.removeprefix("\n").removeprefix("\n")) for who, said in zip(parts[0::2], parts[1::2], strict=True)
    ]
