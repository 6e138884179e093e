"""The tools a model is offered, in the shapes that Devstral 2 knows from its maker's own harness."""

from __future__ import annotations

from agent.tools.base import Tool
from agent.tools.bash import Bash
from agent.tools.grep import Grep
from agent.tools.read_file import ReadFile
from agent.tools.search_replace import SearchReplace
from agent.tools.todo import Todo
from agent.tools.write_file import WriteFile
from agent.types import Limits

_REPLY_BYTES = 64_000


def default_tools(limits: Limits) -> tuple[Tool, ...]:
    """A reply may fill about a quarter of the window (some four bytes a token), so that one can't end a run."""
    reply = min(_REPLY_BYTES, limits.context_tokens)
    return (
        ReadFile(max_bytes=reply),
        WriteFile(),
        SearchReplace(),
        Grep(max_bytes=reply),
        Bash(command_seconds=limits.command_seconds, max_bytes=min(16_000, reply)),
        Todo(max_bytes=min(8_000, reply // 4)),
    )
