"""Other sandboxes beside ours in the same run: plain bubblewrap, podman and runsc, each one command at a time."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from worker.adapters.sandbox.probe import find_bwraps
from worker.bench.records import Figure, figure

_SECONDS = 60.0


def figures(root: Path, command: str) -> tuple[list[Figure], list[str]]:
    """What ran, and a sentence for each that did not."""
    found: list[Figure] = []
    remarks: list[str] = []
    for name, argv, count in _commands(root):
        if shutil.which(argv[0]) is None:
            remarks.append(f"Not measured: {name}; `{argv[0]}` is not installed.")
            continue
        value = _median(argv, count)
        if isinstance(value, str):
            remarks.append(f"Not measured: {name}; it does not run here: {value}")
        else:
            found.append(figure(f"{name}: true", value, "ms", goal=None, command=command))
    return found, remarks


def _commands(root: Path) -> list[tuple[str, list[str], int]]:
    rootfs = _rootfs(root / "rootfs")
    commands = []
    bwraps = find_bwraps()
    if bwraps:
        plain = "--unshare-all --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib"
        plain += " --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp -- true"
        commands.append(
            ("plain bubblewrap per command, no limits or filter", [str(bwraps[0].path), *plain.split()], 20)
        )
    podman = (
        f"podman --root {root}/podman --runroot {root}/podman-run --storage-driver vfs --runtime runc --cgroup-manager "
        "cgroupfs --events-backend none run --rm --network none --cap-drop all --security-opt no-new-privileges "
        "--read-only --user 65534:65534 --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --log-driver none --memory "
        f"512m --pids-limit 64 -v /usr:/usr:ro --tmpfs /tmp:size=64m --rootfs {rootfs} true"
    )
    commands.append(("podman and runc per command", podman.split(), 8))
    runsc = f"runsc --root={root}/runsc --platform=ptrace --network=none --ignore-cgroups do true"
    commands.append(("runsc (gVisor, ptrace) per command", runsc.split(), 8))
    return commands


def _rootfs(folder: Path) -> Path:
    """Empty but for links into /usr, which is bound."""
    for name in ("usr", "proc", "dev", "sys", "tmp", "etc", "run"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    return folder


def _median(argv: list[str], count: int) -> float | str:
    """Milliseconds, or what it said when it failed."""
    taken = []
    for turn in range(count + 1):
        started = time.perf_counter()
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                check=False,
                timeout=_SECONDS,
                stdin=subprocess.DEVNULL,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": os.environ.get("HOME", "/")},
            )
        except subprocess.TimeoutExpired:
            return f"no end within {_SECONDS:.0f} s"
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            return " ".join(said.split())[-200:] or f"it ended with {done.returncode}"
        if turn:
            taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)
