"""What each call that the filter denies answers, with arguments that the kernel refuses before it acts.

The same program runs in a sandbox, beside one in namespaces of its own, where it holds every capability of theirs, and
for few calls as the host's root: with the filter, and without it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

from worker.adapters.sandbox import seccomp

X86 = os.uname().machine == "x86_64"
NUMBERS = {name: numbers[0] for name, numbers in seccomp.DENIED.items()}

# -1 is no descriptor, 1 no address, and 1 << 30 no flag; where there is a choice, what asks for no capability. What
# isn't named gets zeros: no addresses, commands that don't exist or that do nothing.
_NONE, _NOWHERE = -1, 1
_ARGUMENTS: dict[str, tuple[int, ...]] = {
    "acct": (_NOWHERE,),  # no address at all would switch accounting off
    "fanotify_init": (0x200,),  # FAN_REPORT_FID: a plain user's
    "finit_module": (_NONE, 0, 1 << 30),
    "fsconfig": (_NONE,),
    "fsmount": (_NONE,),
    "fspick": (_NONE,),
    "io_uring_enter": (_NONE,),
    "io_uring_register": (_NONE,),
    "iopl": (4,),  # there are levels 0 to 3
    "kexec_file_load": (_NONE, _NONE, 0, 0, 1 << 30),
    "kexec_load": (0, 1 << 30, 0, 1 << 15),  # no segments would unload what is there
    "mount_setattr": (_NONE,),
    "move_mount": (_NONE, 0, _NONE),
    "open_tree": (_NONE,),
    "pidfd_getfd": (_NONE, _NONE),
    "quotactl_fd": (_NONE,),
    "setns": (_NONE,),
    "settimeofday": (_NOWHERE,),
    "syslog": (10,),  # SYSLOG_ACTION_SIZE_BUFFER
    "userfaultfd": (1,),  # UFFD_USER_MODE_ONLY: a plain user's
}
# Answered with EPERM by kernels (this one or another) where a capability is missing, before they look at anything.
ASK_FIRST = {
    "acct", "bpf", "delete_module", "fanotify_init", "finit_module", "fsmount", "fsopen", "fspick", "init_module",
    "kexec_file_load", "kexec_load", "move_mount", "open_by_handle_at", "perf_event_open", "pivot_root", "reboot",
    "swapoff", "swapon", "syslog", "userfaultfd",
}  # fmt: skip
# Of those, the ones whose capability no namespace has, and that are sure to end at an address or descriptor that isn't
# one (`syslog` reads a size). Not so kexec_*: before they look at anything they may count the attempt.
OF_THE_HOST = {"acct", "delete_module", "finit_module", "init_module", "swapoff", "swapon", "syslog"}
COUNTED = {"kexec_file_load", "kexec_load"}

# argv: JSON of name -> number and arguments; a filter as hexadecimal digits, or nothing. Prints JSON of the answers.
ANSWERS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
if len(sys.argv) > 2:
    program = ctypes.create_string_buffer(bytes.fromhex(sys.argv[2]))
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]
    wanted = Filter((len(program) - 1) // 8, ctypes.addressof(program))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(wanted)) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
def call(words):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(word) for word in (*words, 0, 0, 0, 0, 0, 0)[:7]])
    return "open" if result >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps({name: call(words) for name, words in json.loads(sys.argv[1]).items()}))
"""
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child")


def wanted(names: frozenset[str] = frozenset(NUMBERS)) -> str:
    return json.dumps({name: [NUMBERS[name], *_ARGUMENTS.get(name, ())] for name in names})


def in_namespaces(*, filtered: bool) -> dict[str, str]:
    """A program that holds every capability in namespaces of its own."""
    return _answers(_NAMESPACES, frozenset(NUMBERS), filtered=filtered)


def of_the_host(*, filtered: bool) -> dict[str, str]:
    """A program of the caller's, on the host as it is; OF_THE_HOST only."""
    return _answers((), frozenset(OF_THE_HOST), filtered=filtered)


@functools.cache
def _answers(prefix: tuple[str, ...], names: frozenset[str], *, filtered: bool) -> dict[str, str]:
    words = [*prefix, sys.executable, "-I", "-c", ANSWERS, wanted(names)]
    words += [seccomp.program().hex()] if filtered else []
    done = subprocess.run(words, capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


def with_capabilities(name: str) -> str:
    """What a call answers, without the filter, to a program that has the capability it asks for first."""
    found = in_namespaces(filtered=False)[name]
    if found == "EPERM" and name in OF_THE_HOST:
        found = of_the_host(filtered=False)[name]
    if found != "EPERM":
        return f"{found} with its capability"
    if name in COUNTED and os.geteuid() == 0:
        return "not asked as the host's root: the kernel may count attempts"
    return "refused too: EPERM"
