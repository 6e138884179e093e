"""Run pytest as a plain user when the tests themselves run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pydantic

from worker.adapters.sandbox import stage
from worker.adapters.sandbox.process import Launch

NOBODY = 65534
REPOSITORY = Path(__file__).parents[1]
JOIN = 'for folder in $FOLDERS; do echo $$ >"$folder/cgroup.procs" || exit 97; done; unset FOLDERS; exec "$@"'


@contextmanager
def command(
    arguments: Sequence[str], home: Path, *, delegated: Sequence[Path] = (), env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """pytest with `arguments` as nobody, started in the control groups `delegated` (see `delegate`); `home` and what
    leads to it are opened. `{tests}` in an argument becomes the folder of tests as that user sees it."""
    packages = Path(pydantic.__file__).parents[1]
    prefix = Path(sys.base_prefix)
    view = stage.make([prefix, packages, REPOSITORY], NOBODY)
    try:
        where = view.path(REPOSITORY)
        launch = view.launch(prefix / "bin" / "python3")
        if not launch.prefix:  # everything can be walked to
            drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
            launch = Launch(launch.bwrap, prefix=drop)
        for folder in (home, home.parent, home.parent.parent):
            folder.chmod(folder.stat().st_mode | 0o011)
        os.chown(home, NOBODY, NOBODY)
        words = [word.replace("{tests}", f"{where}/tests") for word in arguments]
        pytest = ["-m", "pytest", "-p", "xdist.plugin", *words, f"--rootdir={where}", "-c", f"{where}/pyproject.toml"]
        with subprocess.Popen(
            ["sh", "-c", JOIN, "sh", *launch.prefix, launch.bwrap, *pytest],
            cwd="/",
            env={
                "FOLDERS": " ".join(map(str, delegated)),
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": f"{where}:{view.path(packages)}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of the interpreter itself, beside ours
                # An interpreter with a shared library finds it by its own path, which this user can't walk.
                "LD_LIBRARY_PATH": f"{view.path(prefix)}/lib",
                "HOME": str(home),
                **(env or {}),
                "TMPDIR": str(home),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        view.close()


@contextmanager
def delegate(name: str) -> Iterator[list[Path]]:
    """A control group of nobody's own in each hierarchy of this machine where root may make one."""
    with ExitStack() as stack:
        made = []
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, kind, options = line.split()[:4]
            wanted = kind == "cgroup2" or {"memory", "pids", "cpu", "freezer"} & set(options.split(","))
            if not kind.startswith("cgroup") or not wanted:
                continue
            folder = Path(mount) / name
            try:
                folder.mkdir()
                made.append(folder)
                stack.callback(_remove, folder)
                shutil.chown(folder, NOBODY, NOBODY)
                for entry in folder.iterdir():
                    if entry.name in {"cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"}:
                        shutil.chown(entry, NOBODY, NOBODY)
            except OSError:
                continue
        yield made


def _remove(folder: Path) -> None:
    """Empty by now, but for groups below that a killed test left."""
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            Path(path).rmdir()
        except OSError as e:
            print(f"left behind: {path}: {e}", file=sys.stderr)
