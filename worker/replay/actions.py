"""Each harness's actions as what they do in our sandbox: small translations, none with a model in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent import actions
from agent.errors import ToolFailure
from agent.protocols import ExecStatus
from agent.recording import Act, Harness, Moment, Recording
from agent.tools import default_tools
from agent.types import Limits, ToolCall
from worker.replay.done import Done
from worker.replay.editor import Editor
from worker.replay.files import Files, NoSuchFile
from worker.replay.ipython import Cells

# Nothing of the workspace is touched by them.
_ENDS = {"submit", "finish", "answer", "verify_test", "exit_cost", "exit_context", "exit_format", "message", "think"}


class Actor:
    """Does the steps of one recording, in order, in one session."""

    def __init__(self, recording: Recording, files: Files) -> None:
        self._files = files
        self._editor = Editor(files)
        self._cells = Cells(files)
        self._tools = default_tools(recording.limits or Limits())
        self._do: Callable[[Moment], Done] = {
            Harness.OURS: self._ours,
            Harness.SWE_AGENT: self._swe_agent,
            Harness.MINI_SWE_AGENT: self._foreign,
            Harness.OPENHANDS: self._foreign,
            Harness.CALL_LOG: self._foreign,
        }[recording.harness]
        self._submits = recording.harness is Harness.MINI_SWE_AGENT

    def do(self, moment: Moment) -> Done:
        """Raises Stopped where nothing after this step would mean anything."""
        if moment.act.tool in _ENDS:
            return Done()
        return self._do(moment)

    def _ours(self, moment: Moment) -> Done:
        act = moment.act
        raw = act.arguments["unparsed"] if act.arguments.keys() == {"unparsed"} else json.dumps(act.arguments)
        call = ToolCall(id="replayed", name=act.tool, arguments=str(raw))
        try:
            done = actions.run(actions.parse(call, self._tools), self._files.session)
        except ToolFailure as failure:
            done = actions.refuse(call, str(failure), malformed=True)
        return Done(text=done.observation, refused=done.malformed)

    def _swe_agent(self, moment: Moment) -> Done:
        """What its str_replace_editor says of an edit is its own; what it leaves is compared at the end."""
        if moment.act.tool == "bash":
            return self._shell(moment)
        if moment.act.tool != "str_replace_editor":
            return self._editor.do(moment)
        if moment.act.arguments.get("command") == "view":
            return self._editor.do(moment.model_copy(update={"act": Act(tool="open", arguments=moment.act.arguments)}))
        try:
            done = self._str_replace(moment)
        except NoSuchFile as missing:
            return Done(text=f"there is no file {missing}", refused=True)
        return done if done.refused else replace(done, text=None)

    def _foreign(self, moment: Moment) -> Done:
        act = moment.act
        if act.problem is not None:
            seen = moment.observed.text if moment.observed else None
            return Done(text=seen, refused=True)  # nothing was run then, and nothing is now
        tools = {
            "bash": self._shell,
            "read_file": self._read,
            "read": self._read,
            "write_file": self._write,
            "str_replace_editor": self._str_replace,
            "ipython": self._cells.do,
        }
        if act.tool not in tools:
            return Done(unsupported=f"{act.tool} is not emulated")
        try:
            return tools[act.tool](moment)
        except NoSuchFile as missing:
            return Done(text=f"there is no file {missing}")

    def _shell(self, moment: Moment) -> Done:
        result = self._files.shell(str(moment.act.arguments.get("command", "")), moment.cwd)
        failed = "" if result.status is ExecStatus.EXIT else result.status.value
        return Done(text=self._files.theirs(result.stdout.text), exit_code=result.returncode, failed=failed)

    def _read(self, moment: Moment) -> Done:
        return Done(text=self._files.read(self._files.path(str(moment.act.arguments.get("path")), moment.cwd)))

    def _write(self, moment: Moment) -> Done:
        path = self._files.path(str(moment.act.arguments["path"]), moment.cwd)
        self._files.write(path, str(moment.act.arguments["content"]))
        return Done(wrote=path)

    def _str_replace(self, moment: Moment) -> Done:
        """The result is the whole file after it, as the events keep it, too."""
        given: dict[str, Any] = moment.act.arguments
        path, command = self._files.path(str(given.get("path")), moment.cwd), given.get("command")
        if command == "create":
            after = str(given.get("file_text", ""))
        elif command == "str_replace":
            before, old = self._files.read(path), str(given.get("old_str", ""))
            if before.count(old) != 1:
                return Done(text=f"old_str is there {before.count(old)} times", refused=True)
            after = before.replace(old, str(given.get("new_str") or ""))
        elif command == "insert":
            lines = self._files.read(path).split("\n")
            at = int(given.get("insert_line", 0))
            after = "\n".join([*lines[:at], *str(given.get("new_str", "")).split("\n"), *lines[at:]])
        else:
            return Done(unsupported=f"str_replace_editor {command} is not emulated")
        self._files.write(path, after)
        return Done(text=after, wrote=path)
