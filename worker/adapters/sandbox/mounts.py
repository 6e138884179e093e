"""Which of the host's directories a spec may show inside, and whose a writable one becomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.protocols import Mount
from worker.adapters.sandbox.workspace import run
from worker.errors import SandboxUnavailable

# Below these nothing of ours lies: a mount elsewhere could replace a program, the workspace or /proc.
_PLACES = ("/opt/", "/run/", "/node_modules")


def give(mounts: Sequence[Mount], uid: int | None) -> list[Path]:
    """The directories of `mounts`; a writable one is handed to `uid` (None: it stays the service's own)."""
    sources = []
    for mount in mounts:
        parts = mount.target.split("/")
        if not mount.target.startswith(_PLACES) or "." in parts or ".." in parts:
            raise SandboxUnavailable(f"nothing may be mounted at {mount.target}")
        source = mount.source.resolve()
        if not source.is_dir():
            raise SandboxUnavailable(f"there is no directory to mount at {mount.target}")
        if mount.writable and uid is not None:
            run(["chown", "-hR", f"{uid}:{uid}", "--", str(source)])
        sources.append(source)
    return sources
