"""A program whose standard output is a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_a_terminal(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None
) -> tuple[int, bytes, bytes]:
    """Its exit status, what the terminal was sent (line ends as the program wrote them), and its standard error."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=env, cwd=cwd) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # a terminal's way to say that nobody writes any more
            pass
        finally:
            os.close(ours)
        assert process.stderr is not None
        errors = process.stderr.read()
    return process.returncode, seen.replace(b"\r\n", b"\n"), errors
