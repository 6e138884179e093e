"""The engines' form of the filter says what the assembled one says."""

from __future__ import annotations

import errno
import json

import pytest

from worker.adapters.sandbox import seccomp
from worker.adapters.sandbox.seccomp_json import profile


def judge(rules: list[dict], name: str, *args: int) -> int:
    """The error that `name` gets, 0 for none: the first rule whose conditions all hold."""
    tests = {
        "SCMP_CMP_EQ": lambda have, rule: have == rule["value"],
        "SCMP_CMP_NE": lambda have, rule: have != rule["value"],
        "SCMP_CMP_GT": lambda have, rule: have > rule["value"],
        "SCMP_CMP_MASKED_EQ": lambda have, rule: have & rule["value"] == rule["valueTwo"],
    }
    for rule in rules:
        if name in rule["names"] and all(tests[arg["op"]](args[arg["index"]], arg) for arg in rule["args"]):
            assert rule["action"] == "SCMP_ACT_ERRNO"
            return rule["errnoRet"]
    return 0


@pytest.mark.parametrize("machine", seccomp.ABIS)
def test_the_same_calls_are_denied(machine):
    rules = json.loads(profile(machine))["syscalls"]
    column = seccomp.ABIS[machine].column
    for name, numbers in seccomp.DENIED.items():
        assert judge(rules, name) == (0 if numbers[column] is None else errno.EPERM)
    assert judge(rules, "clone3") == errno.ENOSYS
    assert judge(rules, "read") == 0
    for call in ("socket", "socketpair"):
        for family in (*range(60), 1 << 32 | 1, 1 << 32 | 40):
            wanted = 0 if family in seccomp.ALLOWED_FAMILIES else errno.EAFNOSUPPORT
            assert judge(rules, call, family, 1, 0) == wanted
        assert judge(rules, call, seccomp.AF_NETLINK, 3, 15) == errno.EPROTONOSUPPORT
    for request in seccomp.DENIED_IOCTLS:
        assert judge(rules, "ioctl", 0, request) == judge(rules, "ioctl", 0, 5 << 32 | request) == errno.EPERM
    assert judge(rules, "ioctl", 0, 0x5413) == 0
    for bit in range(32):
        assert judge(rules, "clone", 1 << bit | 17) == (errno.EPERM if seccomp.NEW_NAMESPACES >> bit & 1 else 0)


def test_what_is_permitted_by_name_is_not_denied():
    assert judge(json.loads(profile("x86_64", permit=frozenset({"ptrace"})))["syscalls"], "ptrace") == 0


def test_conditions_of_one_rule_are_about_different_arguments():
    for rule in json.loads(profile("aarch64"))["syscalls"]:
        assert len({arg["index"] for arg in rule["args"]}) == len(rule["args"])
