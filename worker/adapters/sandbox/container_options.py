"""What a container is made of: the engine's options, and the words of a command inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import SandboxLimits
from worker.adapters.sandbox import command
from worker.adapters.sandbox.command import Mount
from worker.adapters.sandbox.container_run import FIRST
from worker.adapters.sandbox.engine import Engine
from worker.errors import SandboxUnavailable

LABEL = "devstral-fix.session"  # its value is the session's folder on the host
_ETC_OF_AN_IMAGE = ("passwd", "group")  # the rest is its own, or the engine's
_ROOT_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_HOST_ETC = ("alternatives", "ld.so.cache", "ld.so.conf.d", "ssl/certs", "localtime", "mime.types")
_FOLDERS = ("usr", "etc/ssl", "proc", "sys", "dev", "run", "tmp", "var/tmp", "home/agent", "workspace", "git")
# Memory and processes are the cgroup's to count: a process's own bound would come first, and hide which one it was.
_MEMORY = 1 << 50
_PROCESSES = _FILES = 4096


@dataclass(frozen=True)
class Recipe:
    """What all containers of one sandbox share. `image` ends the options (an image's name, or a root directory)."""

    engine: Engine
    seccomp: Path
    image: tuple[str, ...]
    mounts: tuple[Mount, ...]
    env: Mapping[str, str]
    etc: tuple[str, ...]

    def options(self, home: Path, uid: int, mounts: Sequence[Mount], limits: SandboxLimits) -> list[str]:
        group = uid if os.geteuid() == 0 else os.getegid()
        small = min(limits.tmp_bytes, 64 << 20)
        args = [
            *self.engine.run_options,
            *("--label", f"{LABEL}={home}", "--log-driver", "none", "--hostname", "sandbox", "--workdir", "/"),
            *(arg for group in hardening().values() for arg in group),
            *("--user", f"{uid}:{group}", "--security-opt", f"seccomp={self.seccomp}"),
            *("--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes)),
            *("--pids-limit", str(limits.processes)),
            *("--cpus", f"{min(limits.cpus, float(os.cpu_count() or 1)):.2f}"),
            *("--ulimit", f"nofile={_FILES}:{_FILES}", "--ulimit", f"nproc={_PROCESSES}:{_PROCESSES}"),
            *("--ulimit", "core=0:0", "--shm-size", str(small)),
        ]
        for target, size in (("/tmp", limits.tmp_bytes), ("/home/agent", small)):  # noqa: S108
            args += ["--tmpfs", f"{target}:rw,exec,nosuid,nodev,size={size},mode=1777"]
        etc = [Mount(str(home / "etc" / name), f"/etc/{name}") for name in self.etc]
        for mount in (*self.mounts, *etc, *mounts):
            if "," in mount.source + mount.target:
                raise SandboxUnavailable(f"a path with a comma can't be shown in a container: {mount.source}")
            readonly = "" if mount.writable else ",readonly"
            args += ["--mount", f"type=bind,source={mount.source},target={mount.target}{readonly}"]
        return args

    def words(self, program: Sequence[str]) -> list[str]:
        """What follows the options. Engines and images add variables of their own, which end here."""
        pairs = [f"{name}={value}" for name, value in self.env.items()]
        return [*self.image, "-i", *pairs, "/bin/sh", "-c", FIRST, "sh", *program]


def hardening() -> dict[str, list[str]]:
    """The options that take something away, by name."""
    return {
        "net": ["--network", "none"],
        "ipc": ["--ipc", "private"],
        "cgroup": ["--cgroupns", "private"],
        "capabilities": ["--cap-drop", "all"],
        "privileges": ["--security-opt", "no-new-privileges"],
        "root": ["--read-only"],
        # The host's own files are shown, which an SELinux relabelling would spoil.
        "labels": ["--security-opt", "label=disable"],
    }


def program(argv: Sequence[str], *, cwd: str, env: Mapping[str, str], limits: SandboxLimits) -> list[str]:
    """`argv` behind the prelude that the other backend uses, with the limits that aren't the cgroup's."""
    limits = limits.model_copy(update={"memory_bytes": _MEMORY, "processes": _PROCESSES})
    return command.program(argv, cwd=cwd, env=env, limits=limits)


def host_recipe(engine: Engine, root: Path, python: Path | None) -> Recipe:
    """A root directory below `root` that shows the host's programs read-only, as bubblewrap does."""
    base = root / "rootfs"
    for folder in _FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "home/agent"):  # podman gives a tmpfs the mode of the folder that it covers
        (base / folder).chmod(0o1777)
    mounts = [Mount("/usr", "/usr")]
    for name in _ROOT_LINKS:
        host = Path("/", name)
        if host.is_symlink() and not (base / name).is_symlink():
            (base / name).symlink_to(f"usr/{name}")
        elif host.is_dir() and not host.is_symlink():
            mounts.append(Mount(str(host), str(host)))
    mounts += [Mount(f"/etc/{name}", f"/etc/{name}") for name in _HOST_ETC if Path("/etc", name).exists()]
    if python is not None:
        mounts.append(Mount(str(python), str(python)))
    env = command.environment(None if python is None else str(python / "bin"))
    image = ("--rootfs", str(base), "/usr/bin/env")
    return Recipe(engine, root / "seccomp.json", image, tuple(mounts), env, tuple(command.ETC_FILES))


def image_recipe(engine: Engine, root: Path, image: str) -> Recipe:
    """`image` has to be there already, with sh, env, coreutils and git. Its own variables are kept below ours."""
    listed = engine.call("image", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", image)
    own = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    env = {**own, **command.environment(None), "PATH": own.get("PATH", command.environment(None)["PATH"])}
    return Recipe(
        engine,
        root / "seccomp.json",
        ("--pull", "never", "--entrypoint", "/usr/bin/env", image),
        (),
        env,
        _ETC_OF_AN_IMAGE,
    )
