"""One workspace and the containers around it: a container per command, so that the kernel ends all of a command."""

from __future__ import annotations

import errno
import itertools
import posixpath
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from agent.protocols import ExecResult, ExecStatus, SandboxSpec
from worker.adapters.sandbox import scripts
from worker.adapters.sandbox.command import PRELUDE_FAILED, WORKSPACE, Mount
from worker.adapters.sandbox.container_options import Recipe, program
from worker.adapters.sandbox.container_run import REPORT, Report, run
from worker.adapters.sandbox.process import Ended, ours
from worker.adapters.sandbox.session import Objects, _parse_snapshot, _raise_for
from worker.adapters.sandbox.workspace import Files, object_format, remove
from worker.errors import BadPatch, SandboxUnavailable

_OWN_SECONDS = 120.0  # of the scripts we run inside
_INDEX_BYTES = 64 << 20


class ContainerSession:
    """Made by `ContainerSandbox.open`. As with bubblewrap, only the workspace lasts from one command to the next, and
    what git does with the agent's files it does in a container of its own. One command at a time."""

    def __init__(
        self,
        spec: SandboxSpec,
        recipe: Recipe,
        files: Files,
        objects: Objects,
        *,
        home: Path,
        uid: int,
        shown: Sequence[Mount],
        max_pack: int,
    ) -> None:
        self._spec = spec
        self._recipe = recipe
        self._files = files
        self._objects = objects
        self._home = home
        self._uid = uid
        self._shown = shown
        self._cleanup = ExitStack()
        self._max_pack = max_pack
        self._closed = False
        self._numbers = itertools.count(1)
        self._report = Report(home / "report", uid)
        self._base = files.tree_of(spec.tree)
        self._known = [self._base]
        self._fill(self._base)

    def keep(self, cleanup: ExitStack) -> None:
        """Close `cleanup` at the end; until it is handed over, it is the maker's."""
        self._cleanup = cleanup

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
        spec = self._spec
        shown = [
            self._workspace(writable=True),
            *(Mount(str(m.source.resolve()), m.target, writable=m.writable) for m in spec.mounts),
        ]
        first = {"PATH": ":".join([*spec.path, self._recipe.env["PATH"]])} if spec.path else {}
        given = {**first, **spec.env, **(env or {})}
        ended = self._run(argv, shown, cwd=where, env=given, timeout=timeout, keep=max_output, cancel=cancel)
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
        ended = self._script(scripts.READ, [target, str(max_bytes)], [self._workspace()], keep=max_bytes + 1)
        _raise_for(ended, path)
        return ended.stdout.whole or b""

    def write(self, path: str, data: bytes) -> None:
        if "\0" in path:
            raise OSError(errno.EINVAL, "not a path", path)
        target = posixpath.normpath(posixpath.join(WORKSPACE, path))
        if not target.startswith(f"{WORKSPACE}/"):
            raise PermissionError(errno.EACCES, f"only files below {WORKSPACE} last", path)
        arguments = [target, posixpath.dirname(target)]
        _raise_for(self._script(scripts.WRITE, arguments, [self._workspace(writable=True)], stdin=data), path)

    def snapshot(self) -> str:
        mounts = [self._workspace(), Mount(str(self._files.git_dir), "/gitdir")]
        ended = self._script(scripts.SNAPSHOT, self._known, mounts, keep=self._max_pack)
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
        """Files from the host, then the agent's `.git` and the trusted index from a container that nothing hostile
        has been in."""
        remove(self._files.workspace)
        self._files.check_out(tree)
        arguments = [self._spec.tree, tree, object_format(tree)]
        ended = self._script(scripts.INIT, arguments, [self._workspace(writable=True)], keep=_INDEX_BYTES)
        index = ended.stdout.whole
        if ended.status is not ExecStatus.EXIT or ended.returncode != 0 or not index:
            why = "the limits can't be set" if ended.returncode == PRELUDE_FAILED else ended.stderr.captured().text
            raise SandboxUnavailable(f"the workspace could not be made ({ended.status}): {why.strip()[-300:]}")
        self._files.keep_index(index)

    def _workspace(self, *, writable: bool = False) -> Mount:
        return Mount(str(self._files.workspace), WORKSPACE, writable=writable)

    def _script(
        self, script: str, arguments: Sequence[str], mounts: Sequence[Mount], *, keep: int = 4096, stdin: bytes = b""
    ) -> Ended:
        argv = ["/bin/sh", "-c", script, "sh", *arguments]
        return self._run(argv, mounts, cwd=WORKSPACE, env={}, timeout=_OWN_SECONDS, keep=keep, stdin=stdin)

    def _run(
        self,
        argv: Sequence[str],
        mounts: Sequence[Mount],
        *,
        cwd: str,
        env: Mapping[str, str],
        timeout: float,
        keep: int,
        stdin: bytes | None = None,
        cancel: Event | None = None,
    ) -> Ended:
        if self._closed:
            raise SandboxUnavailable("the session is closed")
        limits = self._spec.limits
        shown = [*mounts, *self._shown, Mount(str(self._report.path), REPORT, writable=True)]
        return run(
            self._recipe.engine,
            f"devstral-fix-{self._home.name}-{next(self._numbers)}",
            self._recipe.options(self._home, self._uid, shown, limits),
            self._recipe.words(program(argv, cwd=cwd, env=env, limits=limits)),
            report=self._report,
            timeout=timeout,
            keep=keep,
            stdin=stdin,
            cancel=cancel,
        )
