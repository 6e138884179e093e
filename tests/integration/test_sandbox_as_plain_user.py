"""Everything again as a plain user, when the tests themselves run as root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from worker.adapters.sandbox import cgroup, stage
from worker.adapters.sandbox.process import Launch
from worker.errors import IsolationMissing

NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]
FILES = (
    "tests/contracts/test_sandbox_contract.py",
    "tests/integration/test_sandbox_defences.py",
    "tests/integration/test_sandbox_strict.py",
)

# The filter is the same program for everybody; what depends on the user is namespaces, limits and files.
SAME_FOR_EVERYBODY = (
    "not filter and not family and not flood and not user_namespaces and not readable and not clone "
    "and not many_changes and not lying"
)


@pytest.fixture
def delegated():
    """A control group that the plain user owns, as an administrator would hand it over."""
    mounts = Path("/proc/self/mounts").read_text()
    try:
        bases = [cgroup.find().base]
        if bases[0].version == 1:  # a user whose own group is not below may not join those of v2
            bases.append(cgroup.find(mounts="\n".join(x for x in mounts.splitlines() if " cgroup2 " not in x)).base)
    except IsolationMissing:
        yield {}  # the suites skip level strict, and say why
        return
    folders = {folder / f"plain-{os.getpid()}" for base in bases for folder in base.folders.values()}
    for folder in folders:
        folder.mkdir()
        for path in (folder, folder / "cgroup.procs", folder / "tasks"):
            if path.exists():
                os.chown(path, NOBODY, NOBODY)
    yield {"TEST_CGROUP": f"{cgroup.NAME}/plain-{os.getpid()}"}
    for folder in folders:
        folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests already run as a plain user")
def test_the_suites_pass_as_a_plain_user(tmp_path_factory, delegated):
    packages = Path(pydantic.__file__).parents[1]
    prefix = Path(sys.base_prefix)
    view = stage.make([prefix, packages, REPOSITORY], NOBODY)
    try:
        where = view.path(REPOSITORY)
        files = [f"{where}/{name}" for name in FILES]
        launch = view.launch(prefix / "bin" / "python3")
        if not launch.prefix:  # everything can be walked to
            launch = Launch(
                launch.bwrap, prefix=("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
            )
        home = tmp_path_factory.mktemp("plain")
        for folder in (home, home.parent, home.parent.parent):
            folder.chmod(folder.stat().st_mode | 0o011)
        os.chown(home, NOBODY, NOBODY)
        done = subprocess.run(
            [
                *launch.prefix,
                launch.bwrap,
                "-m",
                "pytest",
                "-q",
                "-k",
                SAME_FOR_EVERYBODY,
                *files,
                f"--rootdir={where}",
                "-c",
                f"{where}/pyproject.toml",
            ],
            cwd="/",
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": f"{view.path(REPOSITORY)}:{view.path(packages)}",
                "PYTHONDONTWRITEBYTECODE": "1",
                # An interpreter with a shared library finds it by its own path, which this user can't walk.
                "LD_LIBRARY_PATH": f"{view.path(prefix)}/lib",
                "HOME": str(home),
                "TMPDIR": str(home),
                **delegated,
            },
            capture_output=True,
            check=False,
            timeout=300,
        )
    finally:
        view.close()
    said = done.stdout.decode()
    print(said)
    assert done.returncode == 0, said[-6000:] + done.stderr.decode()[-2000:]
    assert " passed" in said
