"""OpenHands' cells of Python: a call of one of its helpers is done as what it means, other code is run as it is.

The helpers open, show, search and edit files, as SWE-agent's commands do; a cell that only calls them changes what they
say and nothing else. Other cells see no variables of cells before them: each is a Python of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.recording import Act, Moment
from agent.tools.bash import QUIET
from worker.replay.done import Done
from worker.replay.editor import Editor
from worker.replay.files import SECONDS, Files, NoSuchFile
from worker.replay.searches import walked

# Each helper's parameters, in order.
_HELPERS = {
    "open_file": ("path", "line_number", "context_lines"),
    "goto_line": ("line_number",),
    "scroll_up": (),
    "scroll_down": (),
    "create_file": ("path",),
    "edit_file_by_replace": ("path", "to_replace", "new_content"),
    "insert_content_at_line": ("path", "line_number", "content"),
    "append_file": ("path", "content"),
    "search_dir": ("search_term", "dir"),
    "search_file": ("search_term", "file"),
    "find_file": ("file_name", "dir"),
}
_NAMES = {"filename": "path", "file_name": "path", "dir_path": "dir", "file_path": "file"}


def helper(code: str) -> tuple[str, dict[str, Any]] | None:
    """The one helper that a cell calls, with its arguments by our names; None for any other code."""
    try:
        body = ast.parse(code.strip()).body
    except (SyntaxError, ValueError, RecursionError):
        return None
    call = body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in _HELPERS:
        return None
    name, given = call.func.id, dict[str, Any]()
    try:
        for parameter, value in zip(_HELPERS[name], call.args, strict=False):
            given[parameter] = ast.literal_eval(value)
        for keyword in call.keywords:
            known = str(keyword.arg)
            given[known if known in _HELPERS[name] else _NAMES.get(known, known)] = ast.literal_eval(keyword.value)
    except (ValueError, TypeError):
        return None  # computed: only Python can tell
    return name, given


class Cells:
    """The cells of one recording, in order; which file is open stays from one to the next."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._editor = Editor(files)
        self._do: dict[str, Callable[[Moment, dict[str, Any]], Done]] = {
            "open_file": self._as("open"),
            "goto_line": self._as("goto"),
            "scroll_up": self._as("scroll_up"),
            "scroll_down": self._as("scroll_down"),
            "create_file": self._as("create"),
            "edit_file_by_replace": self._replace,
            "insert_content_at_line": self._insert,
            "append_file": self._insert,
            "search_dir": lambda m, g: walked(files, m, "search_dir", str(g["search_term"]), str(g.get("dir", "./"))),
            "search_file": self._search_file,
            "find_file": lambda m, g: walked(files, m, "find_file", str(g["file_name"]), str(g.get("dir", "./"))),
        }

    def do(self, moment: Moment) -> Done:
        code = str(moment.act.arguments.get("code", ""))
        found = helper(code)
        if found is None:
            return self._run(moment, code)
        try:
            return self._do[found[0]](moment, found[1])
        except (KeyError, NoSuchFile) as missing:
            return Done(text=f"{found[0]} can't be done: {missing}")

    def _as(self, tool: str) -> Callable[[Moment, dict[str, Any]], Done]:
        return lambda moment, given: self._edited(moment, tool, given)

    def _edited(self, moment: Moment, tool: str, given: dict[str, Any]) -> Done:
        return self._editor.do(moment.model_copy(update={"act": Act(tool=tool, arguments=given)}))

    def _replace(self, moment: Moment, given: dict[str, Any]) -> Done:
        """Its own linter knows more languages than are here: what it refused then stays undone."""
        path, old = str(given["path"]), str(given["to_replace"])
        count = self._files.read(self._files.path(path, moment.cwd)).count(old)
        if count != 1:
            return Done(text=f"to_replace is there {count} times", refused=True)
        if moment.observed is not None and moment.observed.refused and not path.endswith(".py"):
            return Done(text="", refused=True, note="refused by a linter that is not here: taken as recorded")
        return self._edited(moment, "edit", {"path": path, "search": old, "replace": str(given["new_content"])})

    def _insert(self, moment: Moment, given: dict[str, Any]) -> Done:
        line = given.get("line_number")
        more = {} if line is None else {"line": int(line) - 1}
        return self._edited(moment, "insert", {"path": given["path"], "text": str(given["content"]), **more})

    def _search_file(self, moment: Moment, given: dict[str, Any]) -> Done:
        where = given.get("file") or f"{self._files.root}/{self._editor.opened()}"
        return walked(self._files, moment, "search_file", str(given["search_term"]), str(where))

    def _run(self, moment: Moment, code: str) -> Done:
        result = self._files.session.exec(
            ["python3", "-c", self._files.ours(code)],
            cwd=self._files.path(moment.cwd or "."),
            env=QUIET,
            timeout=SECONDS,
            max_output=4 << 20,
        )
        done = Done(text=self._files.theirs(result.stdout.text + result.stderr.text))
        return done if result.returncode is not None else replace(done, failed=result.status.value)
