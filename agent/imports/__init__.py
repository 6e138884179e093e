"""Recordings of other harnesses, and our own trajectories, read into `agent.recording`. A format is known by its shape
and never by a file's name: people rename files.

`read` takes a file's bytes, `load` a path (a directory is taken for a call log and what lies beside it).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.imports import call_log, mini, openhands, ours, swe_agent
from agent.imports.shape import NotRecorded
from agent.recording import FORMAT, Recording

__all__ = ["NotRecorded", "load", "read"]

LARGEST = 256 << 20  # bytes of one file

Read = Callable[[Any], Sequence[Recording]]
_OBJECTS: tuple[tuple[Callable[[Any], bool], Read], ...] = (
    (lambda value: value.get("format") == FORMAT, lambda value: [_recording(value)]),
    (swe_agent.fits, swe_agent.read),
    (mini.fits, mini.read),
    (openhands.fits_output, openhands.read_output),
)
_LISTS: tuple[tuple[Callable[[Any], bool], Read], ...] = (
    (openhands.fits_events, openhands.read_events),
    (mini.fits_messages, mini.read_messages),
)


def load(path: Path) -> tuple[Recording, ...]:
    """The recordings of a file. Raises NotRecorded, and OSError where it can't be read."""
    if path.is_dir():
        return _folder(path)
    data = _bytes(path)
    beside = [other for other in sorted(path.parent.glob("*.json")) if other != path] if call_log.fits(data) else []
    return read(data, name=str(path), beside=[_bytes(other) for other in beside])


def read(data: bytes, *, name: str = "the file", beside: Sequence[bytes] = ()) -> tuple[Recording, ...]:
    """The recordings that `data` holds; `beside` are files that may belong to a call log (its result)."""
    if call_log.fits(data):
        return (call_log.read(data, [value for value in map(_json, beside) if value is not None]),)
    value = _json(data)
    found = _known(value, name) if value is not None else _lines(data, name)
    if not found:
        raise NotRecorded(f"{name}: no format that is known here (its shape fits none of them)")
    return tuple(found)


def _folder(path: Path) -> tuple[Recording, ...]:
    logs = [entry for entry in sorted(path.iterdir()) if entry.is_file() and call_log.fits(_bytes(entry))]
    if len(logs) != 1:
        raise NotRecorded(f"{path}: a folder is read as one call log with its result; it holds {len(logs)} logs")
    return load(logs[0])


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > LARGEST:
        raise NotRecorded(f"{path}: larger than {LARGEST >> 20} MiB")
    return path.read_bytes()


def _json(data: bytes) -> Any:
    """None where it is not one JSON value."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _known(value: Any, name: str) -> Sequence[Recording]:
    table = _OBJECTS if isinstance(value, dict) else _LISTS if isinstance(value, list) else ()
    for fits, read_it in table:
        if fits(value):
            try:
                return read_it(value)
            except (KeyError, TypeError, AttributeError, IndexError, ValidationError) as error:
                raise NotRecorded(f"{name}: damaged: {type(error).__name__}: {str(error)[:200]}") from error
    return ours.read_lines([value], name) if ours.fits(value) else []


def _lines(data: bytes, name: str) -> Sequence[Recording]:
    """JSON lines: our trajectory, or one recording a line. A last line that a crash cut off is left out."""
    *whole, rest = data.split(b"\n")
    values = []
    for number, line in enumerate(whole, start=1):
        if not line.strip():
            continue
        if (value := _json(line)) is None:
            raise NotRecorded(f"{name}, line {number}: not JSON")
        values.append(value)
    if rest.strip() and (last := _json(rest)) is not None:
        values.append(last)
    if not values:
        raise NotRecorded(f"{name}: empty, or no JSON")
    if ours.fits(values[0]):
        return ours.read_lines(values, name)
    return [recording for value in values for recording in _known(value, name)]


def _recording(value: Any) -> Recording:
    return Recording.model_validate(value)
