"""SWE-agent's editor, emulated: `create`, `open`, `goto`, `scroll_*`, `edit` in both its forms, `insert`, and searches.

A window's place is the recorded one; the lines in it are ours. An edit by line number is made only where the lines that
the model was shown are: they may have moved, and then the edit moves along, or be gone, and then the replay stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from agent.recording import Moment
from worker.replay import searches
from worker.replay.done import Done, Stopped
from worker.replay.files import Files, NoSuchFile
from worker.replay.views import anchor, locate, numbered

REFUSED = "Your proposed edit has introduced new syntax error(s)."


class Editor:
    """The open file, and what the recording showed of each file so far (line numbers are the recording's)."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._open: str | None = None
        self._seen: dict[str, dict[int, str]] = {}

    def do(self, moment: Moment) -> Done:
        given = moment.act.arguments
        commands: dict[str, Callable[[Moment, dict[str, Any]], Done]] = {
            "create": self._create,
            "open": self._view,
            "goto": self._view,
            "scroll_up": self._view,
            "scroll_down": self._view,
            "edit": self._edit,
            "insert": self._insert,
            "find_file": self._find,
            "search_dir": partial(searches.search_dir, self._files),
            "search_file": self._search_file,
        }
        if moment.act.tool not in commands:
            return Done(unsupported=f"{moment.act.tool} is not emulated")
        try:
            return commands[moment.act.tool](moment, given)
        except NoSuchFile as missing:
            return Done(text=f"File {missing} not found")

    def _create(self, moment: Moment, given: dict[str, Any]) -> Done:
        path = self._files.path(str(given.get("filename") or given.get("path")), moment.cwd)
        self._files.write(path, "\n")
        self._open = path
        return self._shown(moment, path)

    def _view(self, moment: Moment, given: dict[str, Any]) -> Done:
        return self._shown(moment, self._at(moment, given))

    def _edit(self, moment: Moment, given: dict[str, Any]) -> Done:
        path = self._at(moment, given)
        before = self._files.read(path)
        note = ""
        if "first" in given:
            first, last = int(given["first"]), int(given["last"])
            lines = before.split("\n")
            shift = anchor(self._seen.get(path, {}), first, last, lines)
            if shift is None:
                raise Stopped(
                    f"edit {first}:{last} of {path}: the lines that the recording showed there are not in this file"
                )
            if shift:
                note = f"edit {first}:{last} is made {shift:+d} lines away: what was shown there is there in this base"
            text = str(given["text"]).split("\n") if given["text"] else [""]
            after = "\n".join([*lines[: first - 1 + shift], *text, *lines[last + shift :]])
        else:
            old, new = str(given.get("search")), str(given.get("replace"))
            if old not in before:
                return Done(text=f"Text {old} not found in displayed lines", refused=True)
            many = str(given.get("replace-all", "")).lower() in ("true", "1")
            after = before.replace(old, new) if many else before.replace(old, new, 1)
        return self._kept(moment, path, before, after, note)

    def _insert(self, moment: Moment, given: dict[str, Any]) -> Done:
        path = self._at(moment, given)
        before = self._files.read(path)
        text = str(given.get("text"))
        if given.get("line") is None:
            after = before + text if before.endswith("\n") or not before else f"{before}\n{text}"
        else:
            lines = before.split("\n")
            line = int(given["line"])
            after = "\n".join([*lines[:line], *text.split("\n"), *lines[line:]])
        return self._kept(moment, path, before, after, "")

    def _kept(self, moment: Moment, path: str, before: str, after: str, note: str) -> Done:
        """The edit, unless it breaks the file as the harness's own linter would have found."""
        if self._files.breaks_python(path, before, after):
            self._files.write(path, before)
            return Done(text=REFUSED, refused=True, note=note, wrote=path)
        if moment.observed is not None and moment.observed.refused:
            return Done(text="the edit was made", note=note, wrote=path)
        done = self._shown(moment, path)
        return replace(done, note=note, wrote=path)

    def _find(self, moment: Moment, given: dict[str, Any]) -> Done:
        name = str(given.get("file_name"))
        folder = self._files.path(str(given.get("dir") or "."), moment.cwd)
        done = self._files.session.exec(["find", folder, "-type", "f", "-name", name], timeout=60.0)
        root = self._files.root
        found = sorted(f"{root}/{line.removeprefix('./')}" for line in done.stdout.text.splitlines() if line.strip())
        where = root if folder == "." else f"{root}/{folder}"
        if not found:
            return Done(text=f'No matches found for "{name}" in {where}')
        return Done(text="\n".join([f'Found {len(found)} matches for "{name}" in {where}:', *found]))

    def _search_file(self, moment: Moment, given: dict[str, Any]) -> Done:
        path = self._files.path(str(given["file"]), moment.cwd) if given.get("file") else self.opened()
        return searches.search_file(self._files, given, path)

    def _at(self, moment: Moment, given: dict[str, Any]) -> str:
        """The file of an edit: the one that it names, which is then open, or the open one."""
        if given.get("path"):
            self._open = self._files.path(str(given["path"]), moment.cwd)
        return self.opened()

    def opened(self) -> str:
        """The open file; NoSuchFile where none is."""
        if self._open is None:
            raise NoSuchFile("no file is open")
        return self._open

    def _shown(self, moment: Moment, path: str) -> Done:
        """The recorded window, filled with our lines where they are, so that equal files read alike."""
        lines = self._files.read(path).removesuffix("\n").split("\n")
        recorded = moment.observed.text if moment.observed else ""
        view = numbered(recorded)
        self._seen.setdefault(path, {}).clear()  # what was shown before has moved by edits since
        self._seen[path].update(view)
        if not view:
            return Done(text=None)
        place = locate(view, lines)
        shift = 0 if place is None else place.shift
        ours = {number: lines[number + shift - 1] if 0 < number + shift <= len(lines) else "" for number in view}
        text = "\n".join(f"{number}:{line}" for number, line in ours.items())
        moved = f"what was shown of {path} is {shift:+d} lines away in this base" if shift else ""
        return Done(text=text, compared="\n".join(f"{n}:{line}" for n, line in view.items()), moved=moved, shows=path)
