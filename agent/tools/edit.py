"""Edits in the form of other harnesses' tools, for calls that a model makes out of habit. They are not offered: what is
offered is `search_replace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agent.errors import ToolFailure
from agent.protocols import Session
from agent.tools.base import Parameters, fields
from agent.tools.nearest import explain
from agent.tools.read_file import read
from agent.tools.text import inside, shown
from agent.tools.write_file import exists, save

_TOLD = 10  # places that are named


class EditParameters(Parameters):
    file_path: str = Field(description="the file to change, relative to the workspace or absolute")
    old_string: str = Field(description="text that is in the file now, exactly")
    new_string: str = Field(description="the text to put in its place")
    replace_all: bool = Field(default=False, description="change every place, not the only one")


@dataclass(frozen=True)
class Edit:
    """One text for another. Without `replace_all` it must be there exactly once."""

    name: ClassVar[str] = "edit"
    description: ClassVar[str] = "Replace a text of a file by another one."
    parameters: ClassVar[type[Parameters]] = EditParameters
    mutates: ClassVar[bool] = True

    def run(self, session: Session, params: EditParameters) -> str:
        path = inside(params.file_path, writing=True)
        if not params.old_string:
            return _created(session, path, params.new_string)
        if params.old_string == params.new_string:
            raise ToolFailure("old_string and new_string are the same; nothing would change")
        text = read(session, path).decode(errors="surrogateescape")
        old, new = params.old_string, params.new_string
        if old not in text and "\r\n" in text:
            old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
        count = text.count(old)
        if count == 0:
            raise ToolFailure("old_string is not in the file, so nothing was written: " + explain(old, text, new))
        if count > 1 and not params.replace_all:
            raise ToolFailure(
                f"old_string is there {count} times, at line offsets {_offsets(text, old)}; nothing was written. Take "
                "lines around it in to name one place, or set replace_all"
            )
        save(session, path, text.replace(old, new).encode(errors="surrogateescape"))
        return fields(file=shown(path), replaced=count)


class InsertParameters(Parameters):
    path: str = Field(description="the file to change, relative to the workspace or absolute")
    insert_line: int = Field(ge=0, description="the line after which to insert, from 1; 0: at the beginning")
    new_str: str = Field(description="the text to insert")


@dataclass(frozen=True)
class Insert:
    name: ClassVar[str] = "insert"
    description: ClassVar[str] = "Insert text after a line of a file."
    parameters: ClassVar[type[Parameters]] = InsertParameters
    mutates: ClassVar[bool] = True

    def run(self, session: Session, params: InsertParameters) -> str:
        path = inside(params.path, writing=True)
        text = read(session, path).decode(errors="surrogateescape")
        end = "\r\n" if "\r\n" in text else "\n"
        lines = text.splitlines(keepends=True)
        if params.insert_line > len(lines):
            raise ToolFailure(f"insert_line {params.insert_line} is past the end: {shown(path)} has {len(lines)} lines")
        before, after = lines[: params.insert_line], lines[params.insert_line :]
        if before and not before[-1].endswith("\n"):
            before[-1] += end
        added = params.new_str.replace("\r\n", "\n").removesuffix("\n").replace("\n", end) + end
        save(session, path, "".join([*before, added, *after]).encode(errors="surrogateescape"))
        return fields(file=shown(path), lines_inserted=added.count("\n"))


def _created(session: Session, path: str, content: str) -> str:
    if exists(session, path):
        raise ToolFailure(f"{shown(path)} exists; old_string must name the text of it that is to be changed")
    save(session, path, content.encode())
    return fields(file=shown(path), file_existed=False)


def _offsets(text: str, old: str) -> str:
    places: list[str] = []
    start = text.find(old)
    while start >= 0 and len(places) <= _TOLD:
        places.append(str(text.count("\n", 0, start)))
        start = text.find(old, start + len(old))
    return ", ".join(places[:_TOLD]) + (", ..." if len(places) > _TOLD else "")
