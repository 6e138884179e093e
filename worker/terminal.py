"""What commands print: text of strangers can't steer a terminal, forge a row, or turn the order of characters around.

Every command prints through here; lint forbids `click.echo` and `print` elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

# C0 but for the tab, DEL, C1; what changes the direction of text, or ends a line or paragraph; lone surrogates, which
# can't be encoded.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAMED = {"\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    r"""`text` in one line, each control character as its escape, such as `\x1b`."""
    return _CONTROL.sub(lambda match: _escape(match[0]), text)


def line(text: object = "", *, err: bool = False) -> None:
    """One line for people, whatever `text` holds."""
    click.echo(visible(str(text)), err=err)


def text(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Lines for people: the line ends in `text` are meant."""
    click.echo("\n".join(map(visible, text.split("\n"))), err=err, nl=nl)


def data(value: Any) -> None:
    """JSON for programs, in ASCII: exactly `value`, and no control character as it is."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def diff(patch: bytes) -> None:
    """Byte for byte where a program reads it; for a person's eyes where a terminal does."""
    if sys.stdout.isatty():
        text(patch.decode("utf-8", "backslashreplace"), nl=False)
    else:
        sys.stdout.buffer.write(patch)
    sys.stdout.flush()


def _escape(character: str) -> str:
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
