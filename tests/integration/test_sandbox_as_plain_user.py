"""The sandbox's contract as a plain user, when the tests themselves run as root. The attacks do this themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import plain_user
from worker.adapters.sandbox import cgroup, delegation
from worker.errors import IsolationMissing

FILES = (
    "contracts/test_sandbox_contract.py",
    "integration/test_egress_sandbox.py",
    "integration/test_layers.py",
    "integration/test_sandbox_basic.py",
    "integration/test_sandbox_strict.py",
)

# The filter is the same program for everybody; what depends on the user is namespaces, limits and files.
SAME_FOR_EVERYBODY = "not flood and not readable and not many_changes and not lying"


@pytest.fixture
def delegated():
    """A control group that the plain user owns, as an administrator would hand it over."""
    mounts = Path("/proc/self/mounts").read_text()
    try:
        bases = [delegation.find().base]
        if bases[0].version == 1:  # a user whose own group is not below may not join those of v2
            bases.append(delegation.find(mounts="\n".join(x for x in mounts.splitlines() if " cgroup2 " not in x)).base)
    except IsolationMissing:
        yield {}  # the suites skip level strict, and say why
        return
    folders = {folder / f"plain-{os.getpid()}" for base in bases for folder in base.folders.values()}
    for folder in folders:
        folder.mkdir(parents=True)
        for path in (folder, folder / "cgroup.procs", folder / "tasks"):
            if path.exists():
                os.chown(path, plain_user.NOBODY, plain_user.NOBODY)
    yield {"TEST_CGROUP": f"{cgroup.NAME}/plain-{os.getpid()}"}
    for folder in folders:
        folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests already run as a plain user")
def test_the_contract_holds_as_a_plain_user(tmp_path_factory, delegated):
    arguments = ["-q", "-k", SAME_FOR_EVERYBODY, *(f"{{tests}}/{name}" for name in FILES)]
    with plain_user.command(arguments, tmp_path_factory.mktemp("plain"), env=delegated) as process:
        out, _ = process.communicate(timeout=300)
    said = out.decode()
    print(said)
    assert process.returncode == 0, said[-8000:]
    assert " passed" in said
