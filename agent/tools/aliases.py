"""Calls in the words of other harnesses, taken for what they mean.

A model that has learned several harnesses calls a tool of another one now and then. Refusing that costs a step and
teaches it nothing that lasts; what is offered stays one set of tools. Names and parameters are those of the later
releases of Devstral's own harness (`read`, `edit`) and of the `str_replace` editors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.errors import ToolFailure
from agent.tools.base import Tool
from agent.tools.edit import Edit, Insert

Arguments = Mapping[str, Any]
_Meaning = tuple[str, dict[str, Any]]
_HIDDEN: dict[str, Tool] = {"edit": Edit(), "insert": Insert()}

_EDIT_NAMES = ("edit", "edit_file", "str_replace", "replace")
EDITS = ("search_replace", *_EDIT_NAMES)  #: calls that fail where their text is not in the file

# Another name of a parameter, where the tool's own one is not given.
_PARAMETERS = {
    "read_file": {"file_path": "path", "filename": "path", "file": "path"},
    "write_file": {"file_path": "path", "filename": "path", "file": "path", "file_text": "content", "text": "content"},
    "search_replace": {"path": "file_path", "file": "file_path", "filename": "file_path", "blocks": "content"},
    "grep": {"regex": "pattern", "query": "pattern", "directory": "path", "dir": "path", "include_path": "path"},
    "bash": {"cmd": "command", "script": "command", "timeout_seconds": "timeout"},
    "edit": {
        "path": "file_path", "file": "file_path", "filename": "file_path",
        "old_str": "old_string", "new_str": "new_string", "old": "old_string", "new": "new_string",
    },
    "insert": {"file_path": "path", "insert_text": "new_str", "text": "new_str", "line": "insert_line"},
}  # fmt: skip


def known(name: str) -> bool:
    return name.lower() in _CALLS


def meant(name: str, arguments: dict[str, Any], tools: Sequence[Tool]) -> tuple[Tool, dict[str, Any]] | None:
    """The tool that a call means, and its arguments in that tool's words; None where nothing is known by that name.

    Raises ToolFailure for a call that means nothing here, with what to do instead.
    """
    own = {tool.name: tool for tool in tools}
    if name not in own:
        translate = _CALLS.get(name.lower())
        if translate is None:
            return None
        name, arguments = translate(arguments)
    tool = own.get(name) or _HIDDEN.get(name)
    return None if tool is None else (tool, _renamed(name, arguments, tool))


def _renamed(name: str, arguments: dict[str, Any], tool: Tool) -> dict[str, Any]:
    known = tool.parameters.model_fields
    others = _PARAMETERS.get(name, {})
    taken = dict(arguments)
    for given in arguments:
        own = others.get(given)
        if own and given not in known and own not in taken:
            taken[own] = taken.pop(given)
    return taken


def _same(name: str) -> Callable[[dict[str, Any]], _Meaning]:
    return lambda arguments: (name, arguments)


def _read(arguments: dict[str, Any]) -> _Meaning:
    """Its offset counts lines from 1."""
    offset = arguments.get("offset")
    if isinstance(offset, int) and offset > 0:
        arguments = {**arguments, "offset": offset - 1}
    return "read_file", arguments


def _view(arguments: dict[str, Any]) -> _Meaning:
    """`view_range`: first and last line, from 1; -1: to the end."""
    rest = {name: value for name, value in arguments.items() if name != "view_range"}
    lines = arguments.get("view_range")
    if lines is None:
        return "read_file", rest
    if not (isinstance(lines, list) and len(lines) == 2 and all(isinstance(line, int) for line in lines)):
        raise ToolFailure("view_range is [first line, last line], from 1; read_file takes offset and limit instead")
    first, last = max(lines[0], 1), lines[1]
    if last != -1 and last < first:
        raise ToolFailure(f"view_range {lines} ends before it begins")
    return "read_file", {**rest, "offset": first - 1, **({} if last == -1 else {"limit": last - first + 1})}


def _undo(_: dict[str, Any]) -> _Meaning:
    raise ToolFailure(
        "edits are not undone here; put the former text back with search_replace, or with bash: git checkout -- FILE"
    )


def _finished(_: dict[str, Any]) -> _Meaning:
    raise ToolFailure("there is no tool to submit with; answer with your summary and without a tool call")


_EDITOR: dict[str, Callable[[dict[str, Any]], _Meaning]] = {
    "view": _view,
    "create": _same("write_file"),
    "str_replace": _same("edit"),
    "insert": _same("insert"),
    "undo_edit": _undo,
}


def _editor(arguments: dict[str, Any]) -> _Meaning:
    """One tool whose `command` says which it is."""
    command = arguments.get("command")
    translate = _EDITOR.get(command) if isinstance(command, str) else None
    if translate is None:
        raise ToolFailure(f"command must be one of {', '.join(_EDITOR)}; or use read_file, write_file, search_replace")
    wanted = _OF_COMMAND[str(command)]
    return translate({name: value for name, value in arguments.items() if name in wanted and value is not None})


_OF_COMMAND = {
    "view": ("path", "view_range"),
    "create": ("path", "file_text"),
    "str_replace": ("path", "old_str", "new_str"),
    "insert": ("path", "insert_line", "new_str", "insert_text"),
    "undo_edit": (),
}
_CALLS: dict[str, Callable[[dict[str, Any]], _Meaning]] = {
    **dict.fromkeys(("str_replace_editor", "str_replace_based_edit_tool", "file_editor", "editor"), _editor),
    **dict.fromkeys(_EDIT_NAMES, _same("edit")),
    **dict.fromkeys(("insert", "insert_line"), _same("insert")),
    **dict.fromkeys(("read", "cat", "open", "open_file"), _read),
    "view": _view,
    "view_file": _view,
    **dict.fromkeys(("write", "create", "create_file"), _same("write_file")),
    **dict.fromkeys(("shell", "run", "execute_bash", "terminal", "run_command", "exec"), _same("bash")),
    **dict.fromkeys(("search", "rg", "ripgrep", "search_files"), _same("grep")),
    **dict.fromkeys(("todowrite", "todo_write"), lambda arguments: ("todo", {"action": "write", **arguments})),
    **dict.fromkeys(("submit", "finish", "task_done", "attempt_completion"), _finished),
}
