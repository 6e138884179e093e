"""What a sandbox is made of: the bubblewrap options, the quiet environment, and the first lines run inside."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import SandboxLimits

WORKSPACE = "/workspace"
_PATH = "/usr/local/bin:/usr/bin:/bin"
_UID = "1000"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# Programs, libraries and what they look up; nothing else of the host's /etc.
_HOST_ETC = ("alternatives", "ld.so.cache", "ld.so.conf.d", "ssl/certs", "localtime", "mime.types")
_ROOT_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")

ETC_FILES = {
    "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\nagent:x:{_UID}:{_UID}:agent:/home/agent:/bin/sh\n",
    "group": f"root:x:0:\nagent:x:{_UID}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

# The first program inside. Limits come first and are hard, so nothing after them can raise them; the memory of the
# host outranks a sandbox's (oom_score_adj); the caller's variables reach only the command itself.
# Arguments: limits (f d p n), working directory, NAME=VALUE…, "--", the command.
_PRELUDE = """
{ ulimit -c 0 && ulimit -f "$1" && ulimit -d "$2" && ulimit -n "$4"; } || exit 125
ulimit -u "$3" 2>/dev/null || ulimit -p "$3" || exit 125
{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null
cd -- "$5" || exit 126
shift 5
while [ "$1" != -- ]; do export "$1"; shift; done
shift
exec "$@"
"""
PRELUDE_FAILED = 125


@dataclass(frozen=True)
class Mount:
    """`source` as bubblewrap sees it (see `stage`), shown inside at `target`."""

    source: str
    target: str
    writable: bool = False

    def words(self) -> list[str]:
        return ["--bind" if self.writable else "--ro-bind", self.source, self.target]


@dataclass(frozen=True)
class Overlay:
    """`lower` shown at `target`; changes go to `upper` (`work` is the kernel's own, on the same file system). Without
    `work` both are shown as one, read-only."""

    lower: str
    upper: str
    work: str | None
    target: str

    def words(self) -> list[str]:
        if self.work is None:
            return ["--overlay-src", self.lower, "--overlay-src", self.upper, "--ro-overlay", self.target]
        return ["--overlay-src", self.lower, "--overlay", self.upper, self.work, self.target]


def hardening() -> dict[str, list[str]]:
    """The options that take something away, by name: each one has a test that turns red without it."""
    return {
        "user": ["--unshare-user", "--uid", _UID, "--gid", _UID],
        "pid": ["--unshare-pid"],
        "net": ["--unshare-net"],
        "ipc": ["--unshare-ipc"],
        "uts": ["--unshare-uts", "--hostname", "sandbox"],
        "cgroup": ["--unshare-cgroup-try"],
        "userns": ["--disable-userns"],
        "parent": ["--die-with-parent"],
        "terminal": ["--new-session"],
        "capabilities": ["--cap-drop", "ALL"],
        "environment": ["--clearenv"],
    }


def options(
    mounts: Sequence[Mount | Overlay],
    limits: SandboxLimits,
    *,
    etc: str,
    extra_path: str | None,
    masks: Sequence[str] = (),
) -> list[str]:
    """Every option of one bubblewrap call, without seccomp and the status pipe. `etc` is the folder of ETC_FILES as
    bubblewrap sees it; `masks` are directories inside to cover with an empty one."""
    args = [arg for group in hardening().values() for arg in group]
    args += ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_LINKS:
        if Path("/", name).is_symlink():
            args += ["--symlink", f"usr/{name}", f"/{name}"]
        elif Path("/", name).is_dir():
            args += ["--ro-bind", f"/{name}", f"/{name}"]
    args += ["--dir", "/etc"]
    for name in _HOST_ETC:
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ETC_FILES:
        args += ["--ro-bind", f"{etc}/{name}", f"/etc/{name}"]
    # sysctl files trust uid 0 of the host, and the kernel keeps them writable in a new /proc.
    args += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    args += _scratch(limits, {mount.target for mount in mounts})
    args += ["--remount-ro", "/dev"]  # its own tmpfs has no size limit; the devices and /dev/shm are mounts of theirs
    for mount in mounts:
        args += mount.words()
    for target in masks:
        args += ["--size", "4096", "--tmpfs", target, "--remount-ro", target]
    for name, value in environment(extra_path).items():
        args += ["--setenv", name, value]
    return [*args, "--remount-ro", "/", "--chdir", "/"]


def _scratch(limits: SandboxLimits, given: set[str]) -> list[str]:
    """Places for temporary files that aren't `given`, for programs of ours: they have no limit of files."""
    small = min(limits.tmp_bytes, 64 << 20)
    places = {"/dev/shm": (small, "1777"), "/tmp": (limits.tmp_bytes, "1777"), "/home/agent": (small, "0755")}  # noqa: S108
    return [
        word
        for target, (size, mode) in places.items()
        if target not in given
        for word in ("--perms", mode, "--size", str(size), "--tmpfs", target)
    ]


def environment(extra_path: str | None) -> dict[str, str]:
    """What a command finds: nothing of the service's own, and no reason for a program to wait for a person."""
    return {
        "PATH": _PATH if extra_path is None else f"{_PATH}:{extra_path}",
        "HOME": "/home/agent",
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "CI": "true",
        "PIP_PROGRESS_BAR": "off",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "DEBIAN_FRONTEND": "noninteractive",
    }


def program(
    argv: Sequence[str], *, cwd: str, env: Mapping[str, str], limits: SandboxLimits, grouped: bool = False
) -> list[str]:
    """`argv` behind the prelude. `grouped`: a control group limits memory and processes, and says so when it did; the
    rlimits stay out of its way. Raises ValueError for what can't be an argument or a variable's name."""
    if not argv:
        raise ValueError("an empty command")
    pairs = []
    for name, value in env.items():
        if not _NAME.match(name):
            raise ValueError(f"not a variable's name: {name!r}")
        pairs.append(f"{name}={value}")
    if grouped:
        limits = limits.model_copy(update={"memory_bytes": 1 << 46, "processes": 2 * limits.processes + 64})
    words = ["/bin/sh", "-c", _PRELUDE, "sh", *_ulimits(limits), cwd, *pairs, "--", *argv]
    if any("\0" in word for word in words):
        raise ValueError("a NUL byte in a command")
    return words


def _ulimits(limits: SandboxLimits) -> list[str]:
    """File size in 512-byte blocks, data segment in KiB, processes, descriptors: never above the service's own hard
    limits, which it could not raise."""
    return [
        str(_within(limits.file_bytes, resource.RLIMIT_FSIZE) // 512),
        str(_within(limits.memory_bytes, resource.RLIMIT_DATA) // 1024),
        str(_within(limits.processes, resource.RLIMIT_NPROC)),
        str(_within(1024, resource.RLIMIT_NOFILE)),
    ]


def _within(value: int, kind: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def system_python(prefix: str) -> Path | None:
    """The interpreter's own installation when it isn't below /usr and has to be shown in addition."""
    path = Path(prefix).resolve()
    if path.is_relative_to("/usr") or not (path / "bin" / "python3").exists():
        return None
    return path if len(path.parts) > 2 else None
