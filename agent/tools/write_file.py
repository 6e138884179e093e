"""`write_file`: a new file, or with `overwrite` the whole of an existing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agent.errors import ToolFailure
from agent.protocols import Session
from agent.tools.base import Parameters, fields
from agent.tools.text import inside, shown


class WriteFileParameters(Parameters):
    path: str = Field(description="the file, relative to the workspace or absolute; directories are made as needed")
    content: str = Field(description="the complete content")
    overwrite: bool = Field(default=False, description="must be true to replace a file that exists")


@dataclass(frozen=True)
class WriteFile:
    max_bytes: int = 64_000

    name: ClassVar[str] = "write_file"
    description: ClassVar[str] = (
        "Create a file with the given content. Replacing an existing file needs overwrite=true and should follow a "
        "read_file of it; to change a part of a file use search_replace."
    )
    parameters: ClassVar[type[Parameters]] = WriteFileParameters
    mutates: ClassVar[bool] = True

    def run(self, session: Session, params: WriteFileParameters) -> str:
        path = inside(params.path, writing=True)
        data = params.content.encode()
        if len(data) > self.max_bytes:
            raise ToolFailure(
                f"the content is {len(data)} bytes and at most {self.max_bytes} can be written at once; "
                "write less and add the rest with search_replace"
            )
        existed = exists(session, path)
        if existed and not params.overwrite:
            raise ToolFailure(
                f"{shown(path)} exists; change it with search_replace, or replace all of it with overwrite=true"
            )
        save(session, path, data)
        # The content is not echoed: it is the model's own argument, already in the history.
        return fields(path=shown(path), bytes_written=len(data), file_existed=existed)


def save(session: Session, path: str, data: bytes) -> None:
    try:
        session.write(path, data)
    except IsADirectoryError:
        raise ToolFailure(f"{shown(path)} is a directory; give the path of a file") from None
    except OSError as error:
        raise ToolFailure(f"{shown(path)} can't be written: {error.strerror or error}") from None


def exists(session: Session, path: str) -> bool:
    try:
        session.read(path, max_bytes=1)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # something is there; writing says what
    return True
