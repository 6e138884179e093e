"""The system-call filter, as classic BPF that we assemble ourselves (docs/decisions: no libseccomp needed).

The base is a shared kernel whose namespaces do the isolating; the filter takes away what namespaces don't cover
(vsock and other socket families) and the parts of the kernel that a test run never needs but attacks do.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass, field

from worker.errors import IsolationMissing

# Per name: its number on x86_64 and on aarch64 (None: that architecture has no such call).
DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "modify_ldt": (154, None),
    "pivot_root": (155, 41),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "iopl": (172, None),
    "ioperm": (173, None),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "clock_settime": (227, 112),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443),
}
# Everything else (vsock, packet, alg, bluetooth, can, …) is refused at creation.
AF_NETLINK = 16
ALLOWED_FAMILIES = (1, 2, 10, AF_NETLINK)  # unix, inet, inet6; netlink because getaddrinfo asks it for addresses
NETLINK_ROUTE = 0
DENIED_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into someone's terminal
NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone() takes

_X32 = 0x40000000
_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG = 0, 4, (16, 24, 32)  # offsets in struct seccomp_data; an argument's low half comes first
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


@dataclass(frozen=True)
class Abi:
    """What differs between machines: the audit constant, the column of DENIED, and four call numbers."""

    arch: int
    column: int
    ioctl: int
    socket: int
    socketpair: int
    clone: int
    x32: bool


ABIS = {
    "x86_64": Abi(0xC000003E, 0, ioctl=16, socket=41, socketpair=53, clone=56, x32=True),
    "aarch64": Abi(0xC00000B7, 1, ioctl=29, socket=198, socketpair=199, clone=220, x32=False),
}
CLONE3 = 435


@dataclass
class _Assembler:
    """Forward jumps to named places; a jump holds at most 255 instructions, which `bytes` checks."""

    lines: list[tuple[int, str | None, str | None, int]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, code: int, value: int, *, yes: str | None = None, no: str | None = None) -> None:
        self.lines.append((code, yes, no, value))

    def place(self, name: str) -> None:
        self.places[name] = len(self.lines)

    def bytes(self) -> bytes:
        out = bytearray()
        for at, (code, yes, no, value) in enumerate(self.lines):
            jumps = [0 if name is None else self.places[name] - at - 1 for name in (yes, no)]
            out += struct.pack("<HBBI", code, *jumps, value)  # struct.error if a jump is too far
        return bytes(out)


def supported(machine: str | None = None) -> bool:
    return (machine or platform.machine()) in ABIS


def require() -> None:
    """IsolationMissing for a machine without a table."""
    if not supported():
        raise IsolationMissing(f"no system-call filter for this machine: use {' or '.join(ABIS)}")


def program(machine: str | None = None, *, permit: frozenset[str] = frozenset()) -> bytes:
    """The filter for `machine` (this one unless named). `permit` names denied calls to leave open, such as `ptrace`
    for a debugger. Raises KeyError for a machine without a table (see `supported`)."""
    abi = ABIS[machine or platform.machine()]
    asm = _Assembler()
    asm.add(_LOAD, _ARCH)
    # Another architecture's entry (int 0x80) has other numbers: none of them is let through.
    asm.add(_JUMP_EQ, abi.arch, no="nosys")
    asm.add(_LOAD, _NR)
    if abi.x32:
        asm.add(_JUMP_GE, _X32, yes="nosys")
    for name, numbers in DENIED.items():
        number = numbers[abi.column]
        if number is not None and name not in permit:
            asm.add(_JUMP_EQ, number, yes="eperm")
    asm.add(_JUMP_EQ, CLONE3, yes="nosys")  # its flags lie in memory that a filter can't read; libc falls back
    asm.add(_JUMP_EQ, abi.socket, yes="family")
    asm.add(_JUMP_EQ, abi.socketpair, yes="family")
    asm.add(_JUMP_EQ, abi.ioctl, yes="ioctl")
    asm.add(_JUMP_EQ, abi.clone, yes="clone", no="allow")

    asm.place("family")
    asm.add(_LOAD, _ARG[0])
    for family in ALLOWED_FAMILIES:
        asm.add(_JUMP_EQ, family, yes="netlink" if family == AF_NETLINK else "allow")
    asm.add(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
    asm.place("netlink")
    asm.add(_LOAD, _ARG[2])
    asm.add(_JUMP_EQ, NETLINK_ROUTE, yes="allow")
    asm.add(_RETURN, _ERRNO | errno.EPROTONOSUPPORT)

    asm.place("ioctl")
    asm.add(_LOAD, _ARG[1])
    for request in DENIED_IOCTLS:
        asm.add(_JUMP_EQ, request, yes="eperm")
    asm.add(_RETURN, _ALLOW)

    asm.place("clone")
    asm.add(_LOAD, _ARG[0])
    asm.add(_JUMP_SET, NEW_NAMESPACES, yes="eperm")
    asm.place("allow")
    asm.add(_RETURN, _ALLOW)
    asm.place("eperm")
    asm.add(_RETURN, _ERRNO | errno.EPERM)
    asm.place("nosys")
    asm.add(_RETURN, _ERRNO | errno.ENOSYS)
    return asm.bytes()
