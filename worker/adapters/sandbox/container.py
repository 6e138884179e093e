"""The container backend: what docker or podman must offer, and how a session comes to be."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agent.protocols import ExecStatus, Isolation, SandboxLimits, SandboxSpec
from worker.adapters.sandbox import mounts, seccomp, seccomp_json
from worker.adapters.sandbox.command import ETC_FILES, WORKSPACE, Mount, system_python
from worker.adapters.sandbox.container_options import LABEL, host_recipe, image_recipe, program
from worker.adapters.sandbox.container_run import REPORT, Report, run
from worker.adapters.sandbox.container_session import ContainerSession
from worker.adapters.sandbox.engine import find
from worker.adapters.sandbox.homes import Homes
from worker.adapters.sandbox.process import Ended, ours
from worker.adapters.sandbox.session import Objects
from worker.adapters.sandbox.workspace import Files, object_dirs, object_format
from worker.errors import IsolationMissing, SandboxUnavailable

_MEMORY = 128 << 20
# What a first container must be able to do, and what it then says of itself. `ls -la` is there for gVisor: its build
# in Debian 12 (2022) can't.
_PROOF = """set -e
ls -la / >/dev/null
git --version >/dev/null
echo x >/workspace/written
uname -r
cat /proc/self/uid_map
grep -E '^(Seccomp|CapBnd|NoNewPrivs):' /proc/self/status
cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true
"""


class ContainerSandbox:
    """Sessions live below `root`; `objects` checks and stores what comes out of them. `cli` is docker or podman (else
    the one that answers). `runtime` and `runtime_flags` are the engine's. `image` has to be there already and holds
    sh, env, coreutils and git; without one, podman shows the host's own programs read-only, with `python` as an
    interpreter's prefix in addition. `permit` names system calls to leave open.

    The level is `strict` only where the engine gives containers a user namespace of their own (docker's
    userns-remap, rootless podman): elsewhere root inside would be root outside, though nothing inside is root. What
    there is of cgroups, system-call filter and namespaces is read from inside a first container, never assumed.

    `runtime="runsc"` is gVisor, experimental: a kernel of its own (`kernel_isolated`), which neither loads our filter
    nor says when memory ran out. Its build in Debian 12 (20221219) fails `ls -la` with EINVAL and is refused; it
    has no systrap platform, and its kvm platform hung where it was tried. No newer build has been tried.

    Making one starts a container to prove that it can: IsolationMissing says what is missing and what mends it.
    """

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        isolation: Isolation = Isolation.BASIC,
        cli: str | None = None,
        runtime: str | None = None,
        runtime_flags: Sequence[str] = (),
        image: str | None = None,
        python: Path | None = None,
        permit: frozenset[str] = frozenset(),
        max_pack_bytes: int = 64 << 20,
    ) -> None:
        seccomp.require()
        self._root = root.resolve()
        self._objects = objects
        self._max_pack_bytes = max_pack_bytes
        self._homes = Homes(self._root, "c-")
        self._drop = os.geteuid() == 0
        (self._root / "empty").mkdir(exist_ok=True)
        (self._root / "empty").chmod(0o755)
        engine = find(cli, runtime, runtime_flags)
        try:
            if image is not None:
                self._recipe = image_recipe(engine, self._root, image)
            elif engine.name == "podman":
                self._recipe = host_recipe(engine, self._root, system_python(str(python or sys.base_prefix)))
            else:
                raise IsolationMissing("docker needs an image (with sh, coreutils and git) that is on this machine")
            (self._root / "seccomp.json").write_text(seccomp_json.profile(permit=permit))
            self._homes.sweep(self._end)
            self._proof = self._prove()
        except SandboxUnavailable as e:
            raise IsolationMissing(f"a first container did not work: {e}") from e
        if isolation is Isolation.STRICT and self.isolation is not Isolation.STRICT:
            raise IsolationMissing(
                f"{engine.name} gives its containers no user namespace of their own, or no limits: use docker with "
                f"userns-remap or podman as a plain user, or ask for isolation=basic by name"
            )

    @property
    def isolation(self) -> Isolation:
        strict = self._proof["user_namespace"] and self._proof["cgroup"]
        return Isolation.STRICT if strict and self._filtered else Isolation.BASIC

    @property
    def capabilities(self) -> frozenset[str]:
        found = {"no_net"} | {name for name in ("cgroup", "kernel_isolated") if self._proof[name]}
        return frozenset(found | ({"seccomp"} if self._filtered else set()) | ({"uid_drop"} if self._drop else set()))

    @property
    def _filtered(self) -> bool:
        return self._proof["seccomp"] and not self._proof["kernel_isolated"]

    def open(self, spec: SandboxSpec) -> ContainerSession:
        """RepositoryRefused when `git_dir` has no such tree; SandboxUnavailable when the engine fails."""
        with ours():
            return self._open(spec)

    def _open(self, spec: SandboxSpec) -> ContainerSession:
        folders = object_dirs(spec.git_dir)
        with ExitStack() as stack:
            home, uid = self._home(stack)
            files = Files(home, folders, uid if self._drop else None)
            mounts.give(spec.mounts, uid if self._drop else None)
            files.make_git_dir(object_format(spec.tree))
            shown = self._objects_shown(folders)
            cleanup = stack.pop_all()
            try:
                return ContainerSession(
                    spec,
                    self._recipe,
                    files,
                    self._objects,
                    home=home,
                    uid=uid,
                    shown=shown,
                    cleanup=cleanup,
                    max_pack=self._max_pack_bytes,
                )
            except BaseException:
                cleanup.close()
                raise

    def _objects_shown(self, folders: Sequence[Path]) -> list[Mount]:
        """Read-only; their `info` names places on the host, so it is covered."""
        shown = []
        for number, folder in enumerate(folders):
            if self._drop and any(
                not part.stat().st_mode & 0o001 for part in (folder, *folder.iterdir()) if part.is_dir()
            ):
                raise IsolationMissing(f"a sandbox of another uid can't read {folder}; as root: chmod -R a+rX {folder}")
            shown.append(Mount(str(folder), f"/git/objects/{number}"))
            if (folder / "info").is_dir():
                shown.append(Mount(str(self._root / "empty"), f"/git/objects/{number}/info"))
        return shown

    def _prove(self) -> dict[str, bool]:
        """Start one container with an empty workspace and read what holds it."""
        limits = SandboxLimits(memory_bytes=_MEMORY)
        with ours(), ExitStack() as stack:
            home, uid = self._home(stack)
            workspace = home / "workspace"
            workspace.mkdir()
            report = Report(home / "report", uid)
            if self._drop:
                os.chown(workspace, uid, uid)
            mounts = [Mount(str(workspace), WORKSPACE, writable=True), Mount(str(report.path), REPORT, writable=True)]
            ended = run(
                self._recipe.engine,
                f"devstral-fix-{home.name}-proof",
                self._recipe.options(home, uid, mounts, limits),
                self._recipe.words(program(["/bin/sh", "-c", _PROOF], cwd=WORKSPACE, env={}, limits=limits)),
                report=report,
                timeout=60.0,
                keep=4096,
            )
        return _judge(ended)

    def _home(self, stack: ExitStack) -> tuple[Path, int]:
        """A session's directory, and its uid."""
        home = self._homes.make(stack)
        uid = self._homes.uid(stack) if self._drop else os.geteuid()
        (home / "etc").mkdir()
        for name, content in ETC_FILES.items():
            (home / "etc" / name).write_text(re.sub(r":1000\b", f":{uid}", content))
            (home / "etc" / name).chmod(0o644)
        return home, uid

    def _end(self, dead: set[Path]) -> None:
        """Remove the containers of sessions whose process died."""
        for container, folder in self._recipe.engine.labelled(LABEL) if dead else ():
            if Path(folder) in dead:
                self._recipe.engine.remove(container)


def _judge(ended: Ended) -> dict[str, bool]:
    said = ended.stderr.captured().text.strip()
    if ended.status is not ExecStatus.EXIT or ended.returncode != 0:
        raise IsolationMissing(f"a first container ended with {ended.status} {ended.returncode}: {said[-300:]}")
    if said:  # a limit that the engine can't set is a warning to it
        raise IsolationMissing(f"the container engine warns: {said[-300:]}")
    text = ended.stdout.captured().text
    if not re.search(r"^CapBnd:\s*0+$", text, re.MULTILINE) or not re.search(r"^NoNewPrivs:\s*1$", text, re.MULTILINE):
        raise IsolationMissing("a first container kept capabilities, or could gain some")
    kernel, *lines = text.splitlines()
    mine = Path("/proc/self/uid_map").read_text().split()
    mapped = [line.split() for line in lines if re.fullmatch(r"\s*\d+\s+\d+\s+\d+\s*", line)]
    isolated = kernel != platform.release()
    return {
        "user_namespace": not isolated and [word for line in mapped for word in line] != mine,
        "cgroup": str(_MEMORY) in lines,
        "seccomp": any(re.fullmatch(r"Seccomp:\s*2", line) for line in lines),
        "kernel_isolated": isolated,
    }
