"""What a set-up's folder holds when it is done: measured, frozen, and what it means for the commands that see it.

A stranger's commands filled it. Nothing here follows a symbolic link or runs anything of it.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.protocols import Mount
from worker.errors import SandboxUnavailable
from worker.stages.ports import Layer

TARGET = "/opt/setup"
SCRATCH = (".cache", ".tmp")  # of the set-up itself
_SECONDS = 600.0


def size(folder: Path, each: Callable[[int], None] = lambda _: None) -> int:
    """Bytes on disk, at least 4 KiB for every entry, so that empty files count too. `each` is told of every entry how
    many there were."""
    total = seen = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue  # gone meanwhile
                    total += max(status.st_blocks * 512, 4096)
                    seen += 1
                    each(seen)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(Path(entry.path))
        except OSError:
            continue
    return total


def freeze(folder: Path) -> None:
    """Ours, readable by everybody, writable and privileged for nobody; only files, folders and symbolic links."""
    if os.geteuid() == 0:
        run(["chown", "-hR", "0:0", "--", str(folder)])
    run(["chmod", "-R", "a+rX,u+w,go-w,ug-s,-t", "--", str(folder)])
    run(["find", str(folder), "-xdev", "!", "-type", "f", "!", "-type", "d", "!", "-type", "l", "-delete"])
    for name in SCRATCH:
        remove(folder / name)


def meaning(folder: Path) -> Layer:
    """How later sandboxes see a frozen folder: where it is, and which variables lead tools to it."""

    def there(path: str) -> bool:
        return stat.S_ISDIR(mode(folder / path))

    mounts = [Mount(source=folder, target=TARGET)]
    env = {"SETUP_DIR": TARGET}
    path = []
    if there("bin"):
        path.append(f"{TARGET}/bin")
    if there("venv/bin"):
        path.insert(0, f"{TARGET}/venv/bin")
        env["VIRTUAL_ENV"] = f"{TARGET}/venv"
    if there("node") and there("node/node_modules"):
        # Node looks for modules in every folder above a file's own: this one is above the workspace.
        mounts.append(Mount(source=folder / "node" / "node_modules", target="/node_modules"))
        path.append("/node_modules/.bin")
    if there("cargo"):
        env |= {"CARGO_HOME": f"{TARGET}/cargo", "CARGO_NET_OFFLINE": "true"}
    if there("go"):
        env |= {"GOMODCACHE": f"{TARGET}/go", "GOPROXY": "off"}
    return Layer(mounts=tuple(mounts), env=env, path=tuple(path))


def mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def remove(path: Path) -> None:
    """Remove what a stranger filled, with whatever modes, names and depth."""
    if not os.path.lexists(path):
        return
    if os.geteuid() != 0:
        run(["chmod", "-R", "u+rwX", "--", str(path)], check=False)
    run(["rm", "-rf", "--", str(path)])


def run(argv: Sequence[str], *, check: bool = True) -> None:
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
    try:
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, cwd="/", timeout=_SECONDS, check=check
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise SandboxUnavailable(f"{argv[0]} failed on a set-up's layer: {e}") from e
