"""The system-call filter in the JSON that container engines take, made from the tables of `seccomp`."""

from __future__ import annotations

import errno
import json
import platform
from typing import Any

from worker.adapters.sandbox.seccomp import (
    AF_NETLINK,
    ALLOWED_FAMILIES,
    DENIED,
    DENIED_IOCTLS,
    NETLINK_ROUTE,
    NEW_NAMESPACES,
)

# Other architectures' entries (int 0x80, x32) are killed: libseccomp's answer where only one is listed.
_ARCHITECTURES = {"x86_64": (0, "SCMP_ARCH_X86_64"), "aarch64": (1, "SCMP_ARCH_AARCH64")}


def profile(machine: str | None = None, *, permit: frozenset[str] = frozenset()) -> str:
    """The same denials as `seccomp.program`. Raises KeyError for a machine without a table."""
    column, architecture = _ARCHITECTURES[machine or platform.machine()]
    names = [name for name, numbers in DENIED.items() if numbers[column] is not None and name not in permit]
    rules = [_deny(names, errno.EPERM), _deny(["clone3"], errno.ENOSYS)]
    # An engine turns two conditions on one argument into "or", so the allow-list of families is told as its holes.
    # Arguments are compared in 64 bits, of which the kernel uses 32: what has more bits set is refused as well.
    sockets = ["socket", "socketpair"]
    top = max(ALLOWED_FAMILIES)
    holes = [_arg(0, "EQ", family) for family in range(top) if family not in ALLOWED_FAMILIES]
    rules += [_deny(sockets, errno.EAFNOSUPPORT, hole) for hole in [*holes, _arg(0, "GT", top)]]
    netlink = (_arg(0, "EQ", AF_NETLINK), _arg(2, "NE", NETLINK_ROUTE))
    rules.append(_deny(sockets, errno.EPROTONOSUPPORT, *netlink))
    rules += [_deny(["ioctl"], errno.EPERM, _masked(1, 0xFFFFFFFF, request)) for request in DENIED_IOCTLS]
    flags = [1 << bit for bit in range(32) if NEW_NAMESPACES >> bit & 1]
    rules += [_deny(["clone"], errno.EPERM, _masked(0, flag, flag)) for flag in flags]
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [architecture], "syscalls": rules})


def _deny(names: list[str], error: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error, "args": list(conditions)}


def _arg(index: int, op: str, value: int) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value}
