"""What a tool is: a name, a description, parameters as a pydantic model, and a function of a session."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, model_validator

from agent.protocols import Session
from agent.types import ToolSpec


class Parameters(BaseModel):
    """The arguments of one call. An unknown name is an error: silently dropping it would do something else than
    the model asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        """Models write `null` for "not given"; only a parameter that is required has no default to fall back on."""
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in data.items() if value is not None or name not in optional}


class Tool(Protocol):
    """`run` returns what the model reads, and raises `agent.errors.ToolFailure` where it can't do what was asked.
    Errors of the session that are not the model's business (a dead sandbox) pass through it."""

    name: ClassVar[str]
    description: ClassVar[str]
    parameters: ClassVar[type[Parameters]]
    mutates: ClassVar[bool]  # whether the workspace may differ after a call, also a failed one

    def run(self, session: Session, params: Any) -> str: ...


@runtime_checkable
class Recalls(Protocol):
    """What a tool can do besides whose calls leave something in it that a resume has to restore."""

    def recall(self, params: Any) -> None:
        """Take over what a call with these parameters, which succeeded when it was run, has left."""


@cache
def _schema(parameters: type[Parameters]) -> dict[str, Any]:
    """Made once: it takes longer than the rest of a step of the loop, and each call asks for it. Not to be changed."""
    return parameters.model_json_schema()


def spec(tool: Tool) -> ToolSpec:
    schema = _schema(tool.parameters)
    shared = schema.get("$defs", {})
    properties = {name: _property(entry, shared) for name, entry in schema.get("properties", {}).items()}
    return ToolSpec(
        name=tool.name,
        description=tool.description,
        parameters={
            "type": "object",
            "properties": properties,
            "required": schema.get("required", []),
            "additionalProperties": False,
        },
    )


def signature(tool: Tool) -> str:
    """`name(path: string, offset: integer = 0)`, for error texts."""
    shown = spec(tool).parameters
    parts = []
    for name, entry in shown["properties"].items():
        default = "" if name in shown["required"] else f" = {entry['default']}" if "default" in entry else " (optional)"
        parts.append(f"{name}: {entry['type']}{default}")
    return f"{tool.name}({', '.join(parts)})"


def fields(**values: object) -> str:
    """A result as the model reads it: one `key: value` line per field, in order."""
    return "\n".join(f"{key}: {value}" for key, value in values.items())


def _property(entry: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """One parameter's schema, whole and without pydantic's titles; `X | None = None` is shown as an optional X."""
    kept = {key: value for key, value in entry.items() if key not in ("title", "anyOf")}
    kept |= next((choice for choice in entry.get("anyOf", ()) if choice != {"type": "null"}), {})
    if kept.get("default", ...) is None:
        del kept["default"]
    if reference := kept.pop("$ref", None):
        whole = shared[reference.rpartition("/")[2]]
        kept |= {
            "type": "object",
            "properties": {name: _property(one, shared) for name, one in whole["properties"].items()},
            "required": whole.get("required", []),
            "additionalProperties": False,
        }
    if "items" in kept:
        kept["items"] = _property(kept["items"], shared)
    return kept
