"""Runs in Mistral Vibe's own environment: the calls of a file through Vibe's tools, in the present directory.

`python vibe_side.py CALLS.json RESULTS.json`; CALLS is a list of {"tool", "arguments"}. RESULTS gets {"version",
"tools": each tool's parameters as offered, "results": the text that Vibe would show its model for each call}.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

TOOLS = {
    "read_file": "ReadFile",
    "write_file": "WriteFile",
    "search_replace": "SearchReplace",
    "grep": "Grep",
    "bash": "Bash",
    "todo": "Todo",
}


def tool_of(name: str):
    kind = getattr(importlib.import_module(f"vibe.core.tools.builtins.{name}"), TOOLS[name])
    config = kind._get_tool_config_class()()
    return kind.from_config(lambda: config)


async def told(tool, arguments: dict) -> str:
    """As in Vibe's loop: a line `key: value` for each field of the result, or the error in its tag."""
    result = None
    try:
        async for item in tool.invoke(None, **arguments):
            if hasattr(item, "model_dump") and type(item).__name__.endswith("Result"):
                result = item
    except Exception as error:  # noqa: BLE001 - Vibe's loop tells every one to the model
        return f"<tool_error>{tool.get_name()} failed: {error}</tool_error>"
    return "\n".join(f"{key}: {value}" for key, value in result.model_dump().items())


def main(calls: Path, results: Path) -> None:
    tools = {name: tool_of(name) for name in TOOLS}
    done = [asyncio.run(told(tools[call["tool"]], call["arguments"])) for call in json.loads(calls.read_text())]
    offered = {name: tool.get_parameters() for name, tool in tools.items()}
    version = importlib.metadata.version("mistral-vibe")
    results.write_text(json.dumps({"version": version, "tools": offered, "results": done}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
