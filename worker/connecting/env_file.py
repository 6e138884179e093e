"""The file of settings (`.env`): read as the settings read it, changed line by line, replaced in one piece.

It holds secrets: nobody but its owner may read it once we wrote it, and nothing of it is printed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from worker.errors import SettingsError

PRIVATE = 0o600
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")


def read(path: Path) -> dict[str, str]:
    """What the file sets, by variable; nothing where there is no file. SettingsError when it can't be read."""
    try:
        path.stat()
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error
    del text  # dotenv takes a path; that it is text was to be known
    return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}


def change(path: Path, values: Mapping[str, str | None]) -> None:
    """Set the variables of `values` and leave out those that are None; every other line stays as it is."""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error
    left, lines = dict(values), []
    for line in before.splitlines():
        named = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=", line)
        if named is None or named[1] not in values:
            lines.append(line)
        elif (value := left.pop(named[1], None)) is not None:
            lines.append(f"{named[1]}={_quoted(value)}")
    lines += [f"{name}={_quoted(value)}" for name, value in left.items() if value is not None]
    put(path, "\n".join(lines) + "\n")


def put(path: Path, text: str) -> None:
    """Write a private file in one piece: a crash leaves the old one or the new one. SettingsError when it can't be."""
    target = path.resolve()  # a link stays one
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise SettingsError(f"{path} can't be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, PRIVATE)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise SettingsError(f"{path} can't be written: {error.strerror}") from error


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    if any(sign in value for sign in ("'", "\n", "\r", "\\", "${")):  # what quotes don't hold
        raise SettingsError("a value with quotes, backslashes, ${ or line ends can't be written to a file of settings")
    return f"'{value}'"
