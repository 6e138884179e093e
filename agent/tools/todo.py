"""`todo`: the model's own plan of work, kept here for one trajectory and shown whole with every result."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from agent.errors import ToolFailure
from agent.protocols import Session
from agent.tools.base import Parameters, fields
from agent.tools.text import clean

_MOST = 100
_CONTENT = 1000  # characters of one item that the plan shows
_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]", "cancelled": "[-]"}


class TodoItem(Parameters):
    id: str = Field(description="unique in the list")
    content: str = Field(description="what is to be done")
    status: Literal["pending", "in_progress", "completed", "cancelled"] = "pending"
    priority: Literal["low", "medium", "high"] = "medium"


class TodoParameters(Parameters):
    action: Literal["read", "write"] = Field(description="read: show the list; write: replace it by todos")
    todos: list[TodoItem] | None = Field(
        default=None, description="the complete list, for write; an item that is left out is gone"
    )


@dataclass
class Todo:
    """Its list belongs to one agent. Nothing outside memory holds it; a resume has it from `recall`."""

    max_bytes: int = 8_000  # of the whole list, which stays in the window through every compaction
    items: tuple[TodoItem, ...] = field(default=(), init=False)

    name: ClassVar[str] = "todo"
    description: ClassVar[str] = (
        "Keep the plan of your work as a list: write it when the work has several steps, and write it again, complete, "
        "when a step begins or ends. One item at a time is in_progress; an item is completed only when it was seen to "
        "work. A long run may forget older messages, but not this list."
    )
    parameters: ClassVar[type[Parameters]] = TodoParameters
    mutates: ClassVar[bool] = False

    def run(self, session: Session, params: TodoParameters) -> str:  # noqa: ARG002
        if params.action == "read":
            return self._result(f"Retrieved {len(self.items)} todos")
        if params.todos is None:
            raise ToolFailure("todos is missing; give the complete list, or [] to empty it")
        if len(params.todos) > _MOST:
            raise ToolFailure(f"{len(params.todos)} todos are too many; at most {_MOST} can be kept, so join some")
        ids = [item.id for item in params.todos]
        if twice := next((one for one in ids if ids.count(one) > 1), None):
            raise ToolFailure(f"the id {twice!r} is there more than once; give each item an id of its own")
        size = len(_json(params.todos).encode(errors="replace"))
        if size > self.max_bytes:
            raise ToolFailure(f"the list is {size} bytes and at most {self.max_bytes} can be kept; write less per item")
        self.items = tuple(params.todos)
        return self._result(f"Updated {len(self.items)} todos")

    def recall(self, params: TodoParameters) -> None:
        """Take over what a call that succeeded before has left."""
        if params.action == "write":
            self.items = tuple(params.todos or ())

    def plan(self) -> str:
        """The list as short text, one line an item in the model's order; empty without items."""
        return clean(
            "\n".join(f"{_MARKS[one.status]} {' '.join(one.content.split())[:_CONTENT]}" for one in self.items)
        )

    def _result(self, message: str) -> str:
        return fields(message=message, todos=_json(self.items), total_count=len(self.items))


def _json(items: list[TodoItem] | tuple[TodoItem, ...]) -> str:
    return json.dumps([item.model_dump() for item in items], ensure_ascii=False)
