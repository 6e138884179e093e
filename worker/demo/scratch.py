"""The demo's directory: one per process, and those of processes that were killed are removed by the next demo."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "devstral-fix-demo-"


def make() -> Path:
    """A directory of this process's own, which other users may pass through."""
    _sweep(Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    root.chmod(0o711)  # as root the servers and the sandbox run as other users
    return root


def _sweep(parent: Path) -> None:
    for left in parent.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and left.stat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
