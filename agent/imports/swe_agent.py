"""SWE-agent's `.traj` files: one JSON object with `trajectory` and `history`.

There is no version in the file; it is told apart by what `state` is (a JSON string in 0.x, an object in 1.x). Cost and
tokens exist only for the whole run, and zeros mean that nobody counted (a replay).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from agent.imports.shape import arguments, count, patch, plain, positive
from agent.recording import Act, Harness, Moment, Observed, Recording, Tokens, Totals

# The commands of its interface; everything else is a shell's.
COMMANDS = frozenset({
    "create", "edit", "exit_cost", "exit_context", "exit_format", "find_file", "goto", "insert", "open",
    "scroll_down", "scroll_up", "search_dir", "search_file", "submit",
})  # fmt: skip
_REFUSED = re.compile(
    r"Your proposed edit has introduced new syntax error|edit command failed|Text .* not found in"
    r"|No replacement was performed"
)
_EDIT = re.compile(r"edit (?P<first>\d+):(?P<last>\d+)[ \t]*\n(?P<text>.*?)\n?end_of_edit\s*\Z", re.DOTALL)


def fits(value: Any) -> bool:
    return isinstance(value.get("trajectory"), list) and isinstance(value.get("history"), list)


def read(value: Any) -> Sequence[Recording]:
    info = value.get("info") or {}
    replay = _object(value.get("replay_config"))
    repo = (replay.get("env") or {}).get("repo") or {}
    turns = [turn for turn in value["history"] if turn.get("role") == "assistant" and not turn.get("is_demo")]
    steps = [
        _moment(index, entry, turns[index] if index < len(turns) else {})
        for index, entry in enumerate(value["trajectory"])
    ]
    states = [_object(entry.get("state")) for entry in value["trajectory"]]
    root = next((str(state["working_dir"]) for state in states if state.get("working_dir")), "/testbed")
    for index in range(1, len(steps)):  # a state is that after its action
        steps[index] = steps[index].model_copy(update={"cwd": states[index - 1].get("working_dir")})
    stats = info.get("model_stats") or {}
    counted = any(stats.get(key) for key in ("instance_cost", "tokens_sent", "tokens_received"))
    return [
        Recording(
            harness=Harness.SWE_AGENT,
            version="1.x" if any(isinstance(e.get("state"), dict) for e in value["trajectory"]) else "0.x",
            task=_task(value["history"]),
            system=next((_text(turn) for turn in value["history"] if turn.get("role") == "system"), ""),
            base_commit=repo.get("base_commit"),
            root=root,
            model=None if not counted else ((replay.get("agent") or {}).get("model") or {}).get("name"),
            steps=tuple(steps),
            totals=Totals(
                calls=count(stats.get("api_calls")),
                tokens=Tokens(prompt=count(stats.get("tokens_sent")), completion=count(stats.get("tokens_received"))),
                usd=positive(stats.get("instance_cost")),
            ),
            exit_status=info.get("exit_status"),
            patch=patch(info.get("submission")),
            notes=() if counted else ("its counters are all 0: no model was asked, or nobody counted",),
        )
    ]


def _moment(index: int, entry: dict[str, Any], turn: dict[str, Any]) -> Moment:
    text = plain(entry.get("observation"))
    return Moment(
        index=index,
        thought=plain(entry.get("thought")).strip(),
        act=act(plain(entry.get("action")), turn.get("tool_calls")),
        observed=Observed(text=text, refused=bool(_REFUSED.search(text[:400]))),
    )


def act(action: str, calls: Any = None) -> Act:
    """The action as it was executed; a native call has its arguments whole, a command line has to be taken apart."""
    name = re.match(r"\s*(\w*)", action)
    tool = name[1] if name else ""
    if isinstance(calls, list) and len(calls) == 1:
        function = calls[0].get("function") or {}
        given, problem = arguments(function.get("arguments"))
        called = str(function.get("name"))
        return Act(tool=called, arguments={"command": action} if called == "bash" else given, problem=problem)
    if tool not in COMMANDS:
        return Act(tool="bash", arguments={"command": action.rstrip("\n")})
    if tool == "edit" and (edit := _EDIT.match(action)):
        return Act(tool=tool, arguments={"first": int(edit["first"]), "last": int(edit["last"]), "text": edit["text"]})
    try:
        words = shlex.split(action)
    except ValueError as error:
        return Act(tool=tool, arguments={"unparsed": action}, problem=f"the command line is broken: {error}")
    return Act(tool=tool, arguments=_named(tool, words[1:]))


def _named(tool: str, words: list[str]) -> dict[str, Any]:
    names = {
        "create": ("filename",),
        "edit": ("search", "replace", "replace-all"),
        "find_file": ("file_name", "dir"),
        "goto": ("line_number",),
        "insert": ("text", "line"),
        "open": ("path", "line_number"),
        "search_dir": ("search_term", "dir"),
        "search_file": ("search_term", "file"),
    }.get(tool, ())
    return {name: int(word) if word.isdecimal() else word for name, word in zip(names, words, strict=False)}


def _task(history: list[dict[str, Any]]) -> str:
    return next((_text(turn) for turn in history if turn.get("role") == "user" and not turn.get("is_demo")), "")


def _text(turn: dict[str, Any]) -> str:
    """Content is text, or a list of parts."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(plain(part.get("text")) for part in content if isinstance(part, dict))
    return plain(content)


def _object(value: Any) -> dict[str, Any]:
    """An object, also one written as JSON text; anything else is empty."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}
