"""One workspace and the sandboxes around it: level `basic`, one bubblewrap per command."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

from agent.protocols import ExecResult, ExecStatus, SandboxSpec
from worker.adapters.sandbox import scripts
from worker.adapters.sandbox.command import PRELUDE_FAILED, WORKSPACE, Mount, Overlay, options, program
from worker.adapters.sandbox.process import Ended, Launch, ours, run
from worker.adapters.sandbox.stage import View
from worker.adapters.sandbox.workspace import Files, object_format, remove
from worker.errors import BadPatch, SandboxUnavailable

_OWN_SECONDS = 120.0  # of the scripts we run inside
_INDEX_BYTES = 64 << 20


class Objects(Protocol):
    """What a session needs of the trusted repository's keeper."""

    def import_pack(self, git_dir: Path, pack: bytes) -> None:
        """Check and store the objects of a pack from inside. Raises worker.errors.BadPatch."""

    def has_tree(self, git_dir: Path, tree: str) -> bool: ...


@dataclass(frozen=True)
class Box:
    """What every sandbox of one session shares."""

    bwrap: Path
    launch: Launch
    seccomp: bytes
    view: View
    etc: Path
    objects: tuple[Path, ...]
    python: Path | None


class BwrapSession:
    """Made by `BwrapSandbox.open`. Only the workspace lasts from one command to the next: /tmp and the home
    directory are new each time. `cleanup` is closed at the end, after the workspace is gone.
    `first` is the tree to begin with, instead of the spec's own."""

    _grouped = False  # whether a control group limits what runs

    def __init__(
        self,
        spec: SandboxSpec,
        box: Box,
        files: Files,
        objects: Objects,
        *,
        cleanup: ExitStack,
        max_pack: int,
        first: str = "",
    ) -> None:
        self._spec = spec
        self._box = box
        self._files = files
        self._objects = objects
        self._cleanup = cleanup
        self._max_pack = max_pack
        self._closed = False
        self._base = files.tree_of(spec.tree)
        self._known = [self._base]
        self._fill(first or self._base)

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
        where = posixpath.join(WORKSPACE, cwd)
        ended = self._command(argv, cwd=where, env=env or {}, timeout=timeout, keep=max_output, cancel=cancel)
        return ExecResult(
            status=ended.status,
            returncode=ended.returncode,
            stdout=ended.stdout.captured(),
            stderr=ended.stderr.captured(),
            seconds=ended.seconds,
        )

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        target = posixpath.join(WORKSPACE, path)
        if "\0" in path:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        ended = self._own(scripts.READ, [target, str(max_bytes)], keep=max_bytes + 1, writable=False)
        _raise_for(ended, path)
        return ended.stdout.whole or b""

    def write(self, path: str, data: bytes) -> None:
        target = posixpath.normpath(posixpath.join(WORKSPACE, path))
        if "\0" in path:
            raise OSError(errno.EINVAL, "not a path", path)
        if not target.startswith(f"{WORKSPACE}/"):
            raise PermissionError(errno.EACCES, f"only files below {WORKSPACE} last", path)
        _raise_for(self._own(scripts.WRITE, [target, posixpath.dirname(target)], stdin=data), path)

    def snapshot(self) -> str:
        ended = self._read_tree()
        tree, pack = _parse_snapshot(ended, len(self._base))
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
        workspace = Mount(self._seen(self._files.workspace), WORKSPACE, writable=True)
        arguments = [self._spec.tree, tree, object_format(tree)]
        ended = self._script(scripts.INIT, arguments, [workspace], keep=_INDEX_BYTES)
        index = ended.stdout.whole
        if ended.status is not ExecStatus.EXIT or ended.returncode != 0 or not index:
            why = "the limits can't be set" if ended.returncode == PRELUDE_FAILED else ended.stderr.captured().text
            raise SandboxUnavailable(f"the workspace could not be made ({ended.status}): {why.strip()[-300:]}")
        self._files.keep_index(index)

    def _read_tree(self) -> Ended:
        """What SNAPSHOT prints."""
        mounts = [
            Mount(self._seen(self._files.workspace), WORKSPACE),
            Mount(self._seen(self._files.git_dir), "/gitdir"),
        ]
        return self._script(scripts.SNAPSHOT, self._known, mounts, keep=self._max_pack)

    def _own(
        self, script: str, arguments: Sequence[str], *, keep: int = 4096, stdin: bytes = b"", writable: bool = True
    ) -> Ended:
        """A script of ours, where the agent's commands run."""
        argv = ["/bin/sh", "-c", script, "sh", *arguments]
        return self._command(
            argv, cwd=WORKSPACE, env={}, timeout=_OWN_SECONDS, keep=keep, stdin=stdin, writable=writable
        )

    def _command(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        timeout: float,
        keep: int,
        stdin: bytes | None = None,
        cancel: Event | None = None,
        writable: bool = True,
    ) -> Ended:
        workspace = Mount(self._seen(self._files.workspace), WORKSPACE, writable=writable)
        return self._run(argv, [workspace], cwd=cwd, env=env, timeout=timeout, keep=keep, stdin=stdin, cancel=cancel)

    def _script(
        self,
        script: str,
        arguments: Sequence[str],
        mounts: Sequence[Mount | Overlay],
        *,
        keep: int = 4096,
        stdin: bytes = b"",
    ) -> Ended:
        argv = ["/bin/sh", "-c", script, "sh", *arguments]
        return self._run(argv, mounts, cwd=WORKSPACE, env={}, timeout=_OWN_SECONDS, keep=keep, stdin=stdin)

    def _run(
        self,
        argv: Sequence[str],
        mounts: Sequence[Mount | Overlay],
        *,
        cwd: str,
        env: Mapping[str, str],
        timeout: float,
        keep: int,
        stdin: bytes | None = None,
        cancel: Event | None = None,
    ) -> Ended:
        self._check_open()
        return run(
            self._box.launch,
            self._options(mounts),
            program(argv, cwd=cwd, env=env, limits=self._spec.limits, grouped=self._grouped),
            seccomp=self._box.seccomp,
            timeout=timeout,
            keep=keep,
            stdin=stdin,
            cancel=cancel,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxUnavailable("the session is closed")

    def _options(self, mounts: Sequence[Mount | Overlay]) -> list[str]:
        """bubblewrap's options for `mounts` and what every sandbox of the session sees."""
        box = self._box
        shown = [*mounts]
        masks = []
        for number, objects in enumerate(box.objects):
            shown.append(Mount(self._seen(objects), f"/git/objects/{number}"))
            if (objects / "info").is_dir():  # names places on the host
                masks.append(f"/git/objects/{number}/info")
        extra_path = None
        if box.python is not None:
            shown.append(Mount(self._seen(box.python), str(box.python)))
            extra_path = str(box.python / "bin")
        etc = self._seen(box.etc)
        return options(shown, self._spec.limits, etc=etc, extra_path=extra_path, masks=masks)

    def _seen(self, path: Path) -> str:
        return self._box.view.path(path)


def system_python(prefix: str) -> Path | None:
    """The interpreter's own installation when it isn't below /usr and has to be shown in addition."""
    path = Path(prefix).resolve()
    if path.is_relative_to("/usr") or not (path / "bin" / "python3").exists():
        return None
    return path if len(path.parts) > 2 else None


def _parse_snapshot(ended: Ended, id_length: int) -> tuple[str, bytes]:
    """The tree's id (its shape is checked, nothing more) and the pack. BadPatch for what git could not take."""
    if ended.status is ExecStatus.OUTPUT_LIMIT or ended.stdout.elided:
        raise BadPatch("the workspace's changes are larger than a snapshot may be")
    data = ended.stdout.whole or b""
    if ended.status is not ExecStatus.EXIT or ended.returncode != 0:
        said = ended.stderr.captured().text.strip()[-300:]
        raise BadPatch(f"git could not read the workspace ({ended.status}): {said}")
    head, _, pack = data.partition(b"\n")
    tree = head.decode("ascii", "replace")
    if len(tree) != id_length or not set(tree) <= set("0123456789abcdef"):
        raise BadPatch("the workspace's snapshot has no tree id")
    return tree, pack


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
