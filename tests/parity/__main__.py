"""`make parity`: the same calls on the same files through our tools and Mistral Vibe's, and why they differ.

A difference without a reason fails, and so does a reason without a difference."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.actions import Ready, Refused, parse, refuse, run
from agent.errors import ToolFailure
from agent.protocols import Session
from agent.tools import default_tools
from agent.tools.base import Tool, spec
from agent.tools.text import WORKSPACE
from agent.types import Limits, ToolCall
from tests.parity.calls import CALLS, FILES, REASONS
from tests.sandboxes import place
from worker.table import aligned

VERSION = "2.13.0"
_FIELD = re.compile(r"^([a-z_]+): ?", re.MULTILINE)
_ERROR = re.compile(r"<tool_error>(\w+) failed: (.*)</tool_error>", re.DOTALL)


def main(argv: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="devstral-fix-parity-") as name:
        theirs = their_side(Path(argv[0]).absolute(), Path(name))
        ours = our_side(Path(name))
    if theirs["version"] != VERSION:
        print(f"mistral-vibe {theirs['version']} is not the release that is compared with, {VERSION}")
        return 1
    differences = [("", tool, what) for tool, what in offered(theirs["tools"])]
    for (case, (tool, _)), mine, other in zip(CALLS.items(), ours, theirs["results"], strict=True):
        differences += [(case, tool, what) for what in compared(fields(tool, mine), fields(tool, other))]
    found = {(tool, what) for _, tool, what in differences}
    unlike = {case for case, *_ in differences if case}
    print(f"mistral-vibe {VERSION}; {len(CALLS)} calls, {len(CALLS) - len(unlike)} answered the same\n")
    rows = []
    for tool, what in sorted(found):
        cases = ", ".join(case for case, *rest in differences if rest == [tool, what])
        rows.append([tool, what, REASONS.get((tool, what), "NO REASON"), cases])
    for line in aligned(["tool", "differs in", "reason", "calls"], rows):
        print(line)
    bad = [f"{tool}, {what}: differs without a reason" for tool, what in sorted(found - REASONS.keys())]
    bad += [f"{tool}, {what}: a reason that no call shows" for tool, what in sorted(REASONS.keys() - found)]
    for line in bad:
        print(f"failed: {line}")
    return 1 if bad else 0


def their_side(python: Path, scratch: Path) -> dict[str, Any]:
    folder, home = scratch / "theirs", scratch / "home"
    home.mkdir()
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    calls, results = scratch / "calls.json", scratch / "results.json"
    calls.write_text(json.dumps([{"tool": tool, "arguments": arguments} for tool, arguments in CALLS.values()]))
    script = Path(__file__).parent / "vibe_side.py"
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "VIBE_HOME": str(home)}
    subprocess.run([python, script, calls, results], cwd=folder, env=env, check=True, timeout=120)
    told = json.loads(results.read_text())
    told["results"] = [text.replace(str(folder), WORKSPACE) for text in told["results"]]
    return told


def our_side(scratch: Path) -> list[str]:
    """In the real sandbox."""
    tools = default_tools(Limits(context_tokens=262_144))
    with place(scratch / "ours", FILES).session() as session:
        return [_ours(session, tools, tool, arguments) for tool, arguments in CALLS.values()]


def _ours(session: Session, tools: Sequence[Tool], tool: str, arguments: Mapping[str, Any]) -> str:
    call = ToolCall(id="call00000", name=tool, arguments=json.dumps(arguments))
    try:
        ready: Ready | Refused = parse(call, tools)
    except ToolFailure as failure:
        return refuse(call, str(failure)).observation
    return run(ready, session).observation


def fields(tool: str, text: str) -> dict[str, str]:
    """A result's fields, or {"error": its words}."""
    if failed := _ERROR.fullmatch(text):
        return {"error": failed[2]} if failed[1] == tool else {"error": text}
    parts = _FIELD.split("\n" + text)[1:]
    return {name: value.strip("\n") for name, value in zip(parts[::2], parts[1::2], strict=True)}


def compared(mine: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of what differs."""
    if ("error" in mine) != ("error" in other):
        return ["ok"]
    return [name for name in dict.fromkeys((*mine, *other)) if mine.get(name) != other.get(name)]


def offered(theirs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Tools whose parameters differ in name, kind or default, or in which of them are required."""
    return [
        (tool.name, "parameters")
        for tool in default_tools(Limits())
        if _shape(spec(tool).parameters) != _shape(theirs[tool.name])
    ]


def _shape(schema: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {}
    for name, entry in schema["properties"].items():
        kind = next((one for one in entry.get("anyOf", ()) if one.get("type") != "null"), entry)
        kinds[name] = (kind.get("type"), entry.get("default"), name in schema.get("required", ()))
    return kinds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
