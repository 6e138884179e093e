"""The container engine's command line: which one answers here, and how it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.errors import IsolationMissing, SandboxUnavailable

CLIS = ("podman", "docker")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 60.0
# How an engine is reached; nothing else of the service's environment, since engines pass proxies on into containers.
_KEPT = ("HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
_KEPT_PREFIXES = ("DOCKER_", "CONTAINER_", "CONTAINERS_")


@dataclass(frozen=True)
class Engine:
    """`name` is docker or podman; `program` its path with the options that come before a subcommand."""

    name: str
    program: tuple[str, ...]
    run_options: tuple[str, ...] = ()

    def command(self, *args: str) -> list[str]:
        return [*self.program, *args]

    def call(self, *args: str) -> str:
        """A short call's stdout. SandboxUnavailable with the engine's own words; none of a command's are in them."""
        try:
            done = subprocess.run(
                self.command(*args),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(),
                cwd="/",
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise SandboxUnavailable(f"{self.name} did not answer: {e}") from e
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise SandboxUnavailable(f"{self.name} {args[0]} failed: {said}")
        return done.stdout.decode("utf-8", "replace")

    def remove(self, *containers: str) -> None:
        """Kill and remove. When the first process of a container's pid namespace dies, all others are dead too."""
        for container in containers:
            try:
                self.call("rm", "--force", *(("--time", "0") if self.name == "podman" else ()), container)
            except SandboxUnavailable as e:
                if "no such container" not in str(e).lower() and "no container with" not in str(e).lower():
                    raise

    def labelled(self, label: str) -> Iterator[tuple[str, str]]:
        """Containers that carry `label` in whatever state: id and the label's value."""
        for container in self.call("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}").split():
            form = f'{{{{index .Config.Labels "{label}"}}}}'
            try:
                yield container, self.call("inspect", "--format", form, container).strip()
            except SandboxUnavailable:  # it ended meanwhile
                continue


def find(cli: str | None, runtime: str | None, flags: Sequence[str]) -> Engine:
    """The engine that answers: `cli`, or the first of CLIS. IsolationMissing says what was tried."""
    reasons = []
    for name in CLIS if cli is None else (cli,):
        path = shutil.which(name, path=_PATH)
        if path is None:
            reasons.append(f"there is no `{name}` program")
            continue
        engine = _podman(path, runtime, flags) if name == "podman" else _docker(path, runtime, flags)
        try:
            engine.call("info")
        except SandboxUnavailable as e:
            reasons.append(str(e))
        else:
            return engine
    raise IsolationMissing(f"no container engine answers: {'; '.join(reasons)}")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return {"PATH": _PATH, **kept}


def _docker(path: str, runtime: str | None, flags: Sequence[str]) -> Engine:
    if flags:
        raise IsolationMissing("docker takes a runtime's flags from its daemon.json, not per container")
    return Engine("docker", (path,), () if runtime is None else ("--runtime", runtime))


def _podman(path: str, runtime: str | None, flags: Sequence[str]) -> Engine:
    program = [path]
    if runtime is None and not Path("/sys/fs/cgroup/cgroup.controllers").exists() and shutil.which("runc", path=_PATH):
        runtime = "runc"  # crun refuses hosts that mount both versions of control groups
    if runtime is not None:
        program += ["--runtime", shutil.which(runtime, path=_PATH) or runtime]
    own = (
        ("network=none",) if Path(runtime or "").name == "runsc" else ()
    )  # gVisor's old builds don't see it themselves
    for flag in (*own, *flags):
        program += ["--runtime-flag", flag]
    if not Path("/run/systemd/system").exists():
        program += ["--cgroup-manager", "cgroupfs"]
    # The host's proxies would come in as variables. As a plain user, the workspace's owner has to be the same inside.
    options = ("--http-proxy=false", "--no-hosts", *(() if os.geteuid() == 0 else ("--userns", "keep-id")))
    return Engine("podman", (*program, "--events-backend", "none"), options)
