"""One workspace and its verbs, the same for every backend: what runs a command is a subclass's."""

from __future__ import annotations

import errno
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

from agent.errors import NotSaved
from agent.protocols import ExecResult, ExecStatus, SandboxSpec
from worker.adapters.sandbox import scripts, snapshot
from worker.adapters.sandbox.command import PRELUDE_FAILED, WORKSPACE, Mount
from worker.adapters.sandbox.process import Ended, ours
from worker.adapters.sandbox.workspace import Files, object_format, remove
from worker.errors import BadPatch, SandboxUnavailable

_OWN_SECONDS = 120.0  # of the scripts we run inside
SNAPSHOT_SECONDS = 60.0
_LARGEST_SECONDS = 10.0
_INDEX_BYTES = 64 << 20


class Objects(Protocol):
    """What a session needs of the trusted repository's keeper."""

    def import_pack(self, git_dir: Path, pack: bytes) -> None:
        """Check and store the objects of a pack from inside. Raises worker.errors.BadPatch."""

    def has_tree(self, git_dir: Path, tree: str) -> bool: ...


@dataclass(frozen=True)
class Call:
    """One command: at most `timeout` seconds, and `keep` bytes kept of each stream."""

    argv: Sequence[str]
    timeout: float = _OWN_SECONDS
    keep: int = 4096
    cwd: str = WORKSPACE
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    cancel: Event | None = None


class WorkspaceSession(ABC):
    """Files below the workspace last from one command to the next. `cleanup` is closed at the end, after the workspace
    is gone. `first` is the tree to begin with, instead of the spec's own."""

    def __init__(
        self,
        spec: SandboxSpec,
        files: Files,
        objects: Objects,
        *,
        cleanup: ExitStack,
        max_pack: int,
        first: str = "",
    ) -> None:
        self._spec = spec
        self._files = files
        self._objects = objects
        self._cleanup = cleanup
        self._max_pack = max_pack
        self._closed = False
        self._base = files.tree_of(spec.tree)
        self._known = [self._base]
        self._fill(first or self._base)

    @abstractmethod
    def _run(self, call: Call, mounts: Sequence[Mount]) -> Ended:
        """`call` in a sandbox of its own that shows `mounts` and the repository's objects."""

    @property
    @abstractmethod
    def _search_path(self) -> str:
        """PATH, where the spec adds nothing to it."""

    def _seen(self, path: Path) -> str:
        """A path of the host, as what makes the sandbox is to be told."""
        return str(path)

    def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        timeout: float,
        max_output: int = 1 << 20,
        cancel: Event | None = None,
    ) -> ExecResult:
        spec = self._spec
        path = {"PATH": ":".join([*spec.path, self._search_path])} if spec.path else {}
        where = posixpath.join(WORKSPACE, cwd)
        given = {**path, **spec.env, **(env or {})}
        ended = self._command(Call(argv, timeout, max_output, cwd=where, env=given, cancel=cancel))
        return ExecResult(
            status=ended.status,
            returncode=ended.returncode,
            stdout=ended.stdout.captured(),
            stderr=ended.stderr.captured(),
            seconds=ended.seconds,
        )

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        if "\0" in path:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        target = posixpath.join(WORKSPACE, path)
        ended = self._command(script(scripts.READ, [target, str(max_bytes)], keep=max_bytes + 1), writable=False)
        _raise_for(ended, path)
        return ended.stdout.whole or b""

    def write(self, path: str, data: bytes) -> None:
        if "\0" in path:
            raise OSError(errno.EINVAL, "not a path", path)
        target = posixpath.normpath(posixpath.join(WORKSPACE, path))
        if not target.startswith(f"{WORKSPACE}/"):
            raise PermissionError(errno.EACCES, f"only files below {WORKSPACE} last", path)
        arguments = [target, posixpath.dirname(target)]
        _raise_for(self._command(script(scripts.WRITE, arguments, stdin=data)), path)

    def snapshot(self) -> str:
        ended = self._read_tree()
        try:
            tree, pack = snapshot.parse(ended, len(self._base))
        except NotSaved as problem:
            largest = self._look(script(scripts.LARGEST, [], timeout=_LARGEST_SECONDS))
            raise NotSaved(problem.reason, snapshot.described(largest)) from problem
        if tree not in self._known:
            self._objects.import_pack(self._spec.git_dir, pack)
            if not self._objects.has_tree(self._spec.git_dir, tree):
                raise BadPatch("the workspace's tree is not among the objects that came with it")
            self._known = [tree, self._base]
        return tree

    def reset(self, tree: str) -> None:
        with ours():
            self._fill(self._files.tree_of(tree))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cleanup.close()

    def _fill(self, tree: str) -> None:
        """Files from the host, then the agent's `.git` and the trusted index from a sandbox that nothing hostile has
        been in. The index remembers sizes and times, so that a snapshot reads changed files only."""
        remove(self._files.workspace)
        self._files.check_out(tree)
        arguments = [self._spec.tree, tree, object_format(tree)]
        ended = self._run(script(scripts.INIT, arguments, keep=_INDEX_BYTES), [self._workspace(writable=True)])
        index = ended.stdout.whole
        if ended.status is not ExecStatus.EXIT or ended.returncode != 0 or not index:
            why = "the limits can't be set" if ended.returncode == PRELUDE_FAILED else ended.stderr.captured().text
            raise SandboxUnavailable(f"the workspace could not be made ({ended.status}): {why.strip()[-300:]}")
        self._files.keep_index(index)

    def _read_tree(self) -> Ended:
        """What SNAPSHOT prints."""
        return self._look(self._snapshot_by(scripts.SNAPSHOT))

    def _snapshot_by(self, text: str) -> Call:
        return script(text, self._known, keep=self._max_pack, timeout=SNAPSHOT_SECONDS)

    def _look(self, call: Call) -> Ended:
        """A script of ours, on the workspace as it is and the trusted index."""
        return self._run(call, [self._workspace(), Mount(self._seen(self._files.git_dir), "/gitdir")])

    def _command(self, call: Call, *, writable: bool = True) -> Ended:
        """`call` where the agent's commands run."""
        return self._run(call, [self._workspace(writable=writable), *self._extra()])

    def _workspace(self, *, writable: bool = False) -> Mount:
        return Mount(self._seen(self._files.workspace), WORKSPACE, writable=writable)

    def _extra(self) -> list[Mount]:
        """What the spec shows in addition, where commands run."""
        return [Mount(self._seen(m.source.resolve()), m.target, writable=m.writable) for m in self._spec.mounts]

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxUnavailable("the session is closed")


def script(
    text: str, arguments: Sequence[str], *, keep: int = 4096, stdin: bytes = b"", timeout: float = _OWN_SECONDS
) -> Call:
    """One of `scripts`, to run inside."""
    return Call(["/bin/sh", "-c", text, "sh", *arguments], timeout, keep, stdin=stdin)


def _raise_for(ended: Ended, path: str) -> None:
    """The builtin error for what READ and WRITE ended with."""
    said = ended.stderr.captured().text
    if ended.status is not ExecStatus.EXIT:
        raise OSError(errno.EIO, f"the file could not be reached ({ended.status})", path)
    match ended.returncode:
        case 0:
            return
        case scripts.MISSING:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        case scripts.DIRECTORY:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        case scripts.SPECIAL:
            raise PermissionError(errno.EACCES, "not a regular file", path)
        case scripts.DENIED:
            raise PermissionError(errno.EACCES, "permission denied", path)
    if "Permission denied" in said or "Read-only file system" in said:
        raise PermissionError(errno.EACCES, "permission denied", path)
    if "No space left" in said or "File too large" in said:
        raise OSError(errno.ENOSPC, "no space left", path)
    raise OSError(errno.EIO, said.strip()[-200:] or "the file could not be written", path)
