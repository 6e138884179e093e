"""`read_file`: a text file's lines, without line numbers, so that they can be copied into an edit as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agent.errors import ToolFailure
from agent.protocols import Session
from agent.tools.base import Parameters, fields
from agent.tools.text import inside, is_binary, shown

_LARGEST = 16 << 20  # what is read of a file at all, so that a giant one can't fill our memory


class ReadFileParameters(Parameters):
    path: str = Field(description="the file, relative to the workspace or absolute")
    offset: int = Field(default=0, ge=0, description="line to start from; the first line is 0")
    limit: int | None = Field(default=None, ge=1, description="how many lines to read; all of them if left out")


@dataclass(frozen=True)
class ReadFile:
    max_bytes: int = 64_000

    name: ClassVar[str] = "read_file"
    description: ClassVar[str] = (
        "Read a text file. Content comes back exactly as it is in the file, without line numbers. A long file is cut "
        "and was_truncated says so: go on with offset, or read just the part you need with offset and limit. Use this "
        "and not cat, head or sed."
    )
    parameters: ClassVar[type[Parameters]] = ReadFileParameters
    mutates: ClassVar[bool] = False

    def run(self, session: Session, params: ReadFileParameters) -> str:
        path = inside(params.path)
        data = read(session, path)
        lines = data.decode(errors="replace").replace("\r\n", "\n").split("\n")
        if lines[-1] == "":
            lines.pop()
        if params.offset and params.offset >= len(lines):
            raise ToolFailure(f"offset {params.offset} is past the end: {shown(path)} has {len(lines)} lines")
        wanted = lines[params.offset :][: params.limit]
        taken = self._fitting(wanted)
        end = params.offset + len(taken)
        notes = []
        if not data:
            notes.append("the file is empty")
        if taken != wanted[: len(taken)]:
            notes.append(f"line {end - 1} is longer than {self.max_bytes} bytes and was cut")
        if end < len(lines):
            notes.append(f"{len(lines) - end} more lines; go on with offset={end}")
        if len(data) >= _LARGEST:
            notes.append(f"only the first {_LARGEST} bytes of this file can be read; use bash for the rest")
        if b"\r\n" in data:
            notes.append("lines end in CRLF; search_replace keeps them so")
        if "\ufffd" in "".join(taken):
            notes.append("bytes that are not UTF-8 are shown as \ufffd")
        result = fields(
            path=shown(path), content="\n".join(taken), lines_read=len(taken), was_truncated=end < len(lines)
        )
        return result + (f"\nnote: {'; '.join(notes)}" if notes else "")

    def _fitting(self, lines: list[str]) -> list[str]:
        """The lines that fit into `max_bytes`; always one, shortened if need be."""
        taken: list[str] = []
        room = self.max_bytes
        for line in lines:
            size = len(line.encode(errors="replace")) + 1
            if size > room:
                return taken or [line.encode(errors="replace")[: self.max_bytes].decode(errors="ignore")]
            taken.append(line)
            room -= size
        return taken


def read(session: Session, path: str, *, max_bytes: int = _LARGEST) -> bytes:
    """A text file's bytes; everything that stands in the way is a ToolFailure that says what to do."""
    try:
        data = session.read(path, max_bytes=max_bytes)
    except FileNotFoundError:
        raise ToolFailure(f"{shown(path)} does not exist; find it with grep, or list its directory with bash") from None
    except IsADirectoryError:
        raise ToolFailure(f"{shown(path)} is a directory; list it with bash: ls {shown(path)}") from None
    except OSError as error:
        raise ToolFailure(f"{shown(path)} can't be read: {error.strerror or error}") from None
    if is_binary(data):
        raise ToolFailure(f"{shown(path)} is a binary file; look at it with bash (file, xxd, strings)")
    return data
