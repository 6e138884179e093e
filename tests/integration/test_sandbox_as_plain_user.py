"""The sandbox's contract as a plain user, when the tests themselves run as root. The attacks do this themselves."""

from __future__ import annotations

import os

import pytest

from tests import plain_user

# The filter is the same program for everybody; what depends on the user is namespaces, limits and files.
SAME_FOR_EVERYBODY = "not flood and not readable"


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests already run as a plain user")
def test_the_contract_holds_as_a_plain_user(tmp_path_factory):
    arguments = ["-q", "-k", SAME_FOR_EVERYBODY, "{tests}/contracts/test_sandbox_contract.py"]
    with plain_user.command(arguments, tmp_path_factory.mktemp("plain")) as process:
        out, _ = process.communicate(timeout=300)
    said = out.decode()
    print(said)
    assert process.returncode == 0, said[-8000:]
    assert " passed" in said
