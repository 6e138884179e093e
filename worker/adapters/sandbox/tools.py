"""Programs of the operator's, such as a toolchain below somebody's home, shown read-only to what runs in a sandbox."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from agent.protocols import Isolation, Mount, Sandbox, SandboxSpec, Session

TARGET = "/opt/tools"


class BadTool(ValueError):
    """Not a directory that may be shown to every sandbox."""


class ToolSandbox:
    """Another backend, whose every session sees `folders`, each below TARGET and so at another path than outside:
    what is shown must not mind where it is. Programs are looked for in `bin` of a folder, or in itself when it has
    none, after those of a set-up and before the machine's own. BadTool for what is no such folder, and
    for one that holds a path of `never`."""

    def __init__(self, inner: Sandbox, folders: Sequence[Path], *, never: Sequence[Path] = ()) -> None:
        self._inner = inner
        self._mounts: list[Mount] = []
        self._path: list[str] = []
        for folder in (path.resolve() for path in folders):
            if not folder.is_dir():
                raise BadTool(f"no directory to show as a tool: {folder}")
            if within := [path for path in never if path.resolve().is_relative_to(folder)]:
                raise BadTool(f"{folder} would show {within[0]} to every sandbox: name the tool's own directory")
            target = f"{TARGET}/{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
            self._mounts.append(Mount(source=folder, target=target))
            self._path.append(f"{target}/bin" if (folder / "bin").is_dir() else target)

    @property
    def isolation(self) -> Isolation:
        return self._inner.isolation

    @property
    def capabilities(self) -> frozenset[str]:
        return self._inner.capabilities

    def open(self, spec: SandboxSpec) -> Session:
        more = {"mounts": (*spec.mounts, *self._mounts), "path": (*spec.path, *self._path)}
        return self._inner.open(spec.model_copy(update=more))
