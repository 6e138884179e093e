"""What attackers run: small Python programs whose last word is `open` when the attack worked, else how it failed."""

from __future__ import annotations

import os
import subprocess
import sys

from agent.protocols import Session
from tests.sandboxes import python

# Calls system call argv[1] with the rest as arguments and prints the error's name, or `open`.
CALL = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall(*[ctypes.c_long(int(word)) for word in sys.argv[1:]])
print("open" if result >= 0 else errno.errorcode[ctypes.get_errno()])
"""
# clone (number argv[1]) and clone3 with the flags argv[2]; the child ends at once.
_CHILD = """
if pid == 0: os._exit(0)
print("open" if pid > 0 else errno.errorcode[ctypes.get_errno()])
if pid > 0: os.waitpid(pid, 0)
"""
CLONE = (
    """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
words = (int(sys.argv[1]), int(sys.argv[2]) | 17, 0, 0, 0, 0)
pid = libc.syscall(*[ctypes.c_long(word) for word in words])
"""
    + _CHILD
)
CLONE3 = (
    """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
wanted = (ctypes.c_uint64 * 11)(int(sys.argv[2]), 0, 0, 0, 17)
pid = libc.syscall(ctypes.c_long(int(sys.argv[1])), wanted, ctypes.c_long(88))
"""
    + _CHILD
)
SOCKET = """
import errno, socket, sys
try: socket.socket(*map(int, sys.argv[1:])); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
CONNECT = """
import errno, socket, sys
kind, where = sys.argv[1:]
s = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
s.settimeout(10)
try: s.connect(("127.0.0.1", int(where)) if kind == "tcp" else where.replace("@", "\\0")); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
OPEN = """
import errno, os, sys
try: os.open(sys.argv[1], int(sys.argv[2]), 0o600); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
LIST = """
import errno, os, sys
try: os.listdir(sys.argv[1]); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
SHARED_MEMORY = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
print("open" if libc.shmget(int(sys.argv[1]), 0, 0) >= 0 else errno.errorcode[ctypes.get_errno()])
"""
INT80 = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
print("open" if ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() > 0 else "ENOSYS")
"""
# A process that can be found by its pid, and one that takes a signal (0: nothing is done to it).
VISIBLE = "import os, sys; print('open' if os.path.exists('/proc/' + sys.argv[1]) else 'hidden')"
SIGNAL = """
import errno, os, sys
try: os.kill(int(sys.argv[1]), 0); print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
HOSTNAME = "import socket, sys; print('open' if socket.gethostname() == sys.argv[1] else 'hidden')"
# Its own control groups' host paths: anything but the root and what lies beside it.
CGROUP_PATHS = """
paths = {line.rstrip().split(":", 2)[2] for line in open("/proc/self/cgroup")}
print("hidden" if all(path == "/" or path.startswith("/..") for path in paths) else "open")
"""
# argv: a marker; whether any environment on show holds it.
ENVIRONMENTS = """
import glob, sys
found = False
for name in glob.glob("/proc/*/environ"):
    try: found |= sys.argv[1].encode() in open(name, "rb").read()
    except OSError: pass
print("open" if found else "hidden")
"""
CAPABILITIES = """
held = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff"))
print("open" if int(held, 16) else "none")
"""
# argv: a file, bytes; `open` when all of them fit.
FILL = """
import errno, sys
left = int(sys.argv[2])
try:
    with open(sys.argv[1], "wb", buffering=0) as out:
        while left > 0: left -= out.write(bytes(min(left, 1 << 20)))
    print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
# argv: a folder, a number of files, bytes of each; then prints how many there are.
FILL_FILES = """
import errno, os, sys
folder, number, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs(folder, exist_ok=True)
answer = "open"
for i in range(number):
    try:
        with open(f"{folder}/{i}", "wb", buffering=0) as out: out.write(bytes(size))
    except OSError as e:
        answer = errno.errorcode[e.errno]
        break
print(answer)
"""
# argv: MiB to touch; `open` when they were had.
ALLOCATE = """
import sys
try:
    kept = bytearray(int(sys.argv[1]) << 20)
    kept[::4096] = b"x" * len(kept[::4096])
    print("open")
except MemoryError: print("MemoryError")
"""
# argv: MiB of each of six processes, one after the other; `open` when all were there at once. The kernel may kill one
# that has had its memory for long.
SPREAD = """
import os, sys
hold, release = os.pipe()
for _ in range(6):
    read, write = os.pipe()
    if not os.fork():
        os.close(release)
        kept = bytearray(int(sys.argv[1]) << 20)
        kept[::4096] = b"x" * len(kept[::4096])
        os.write(write, b"x")
        os.read(hold, 1)
        os._exit(0)
    os.close(write)
    os.read(read, 1)
os.close(release)
print("killed" if any([os.wait()[1] for _ in range(6)]) else "open")
"""
# argv: processes; `open` when all could be started. They end with the pipe that holds them, and are reaped.
FORKS = """
import errno, os, sys
hold, write = os.pipe()
answer, pids = "open", []
for _ in range(int(sys.argv[1])):
    try: pid = os.fork()
    except OSError as e:
        answer = errno.errorcode[e.errno]
        break
    if not pid:
        os.close(write)
        os.read(hold, 1)
        os._exit(0)
    pids.append(pid)
os.close(write)
for pid in pids: os.waitpid(pid, 0)
print(answer)
"""
# Every process forks for ever; the refused ones try again. argv: a marker to be found by.
BOMB = """
import os, signal, time
for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(name, signal.SIG_IGN)
while True:
    try: os.fork()
    except OSError: time.sleep(0.02)
"""
# Four processes that burn for a second; prints the processor-seconds that they had per second.
BURN = """
import os, time
started = time.monotonic()
for _ in range(4):
    if not os.fork():
        while time.monotonic() < started + 1: pass
        os._exit(0)
for _ in range(4): os.wait()
used = os.times().children_user + os.times().children_system
print(used / (time.monotonic() - started))
"""
# argv: a request. On a terminal that is this process's own, as every plain user may have one.
TERMINAL_INPUT = """
import errno, fcntl, os, sys
main, side = os.openpty()
pid = os.fork()
if pid: sys.exit(os.waitpid(pid, 0)[1])
os.setsid()
fcntl.ioctl(side, 0x540E, 0)  # TIOCSCTTY
try: fcntl.ioctl(side, int(sys.argv[1]), b"x"); print("open", flush=True)
except OSError as e: print(errno.errorcode[e.errno], flush=True)
os._exit(0)
"""
# argv: a control group to make and to move into.
GROUP = """
import errno, os, sys
try:
    os.mkdir(sys.argv[1])
    with open(sys.argv[1] + "/cgroup.procs", "w") as procs: procs.write("0")
    print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
# argv: a folder; whether files could be made in it, without making one.
WRITABLE = "import os, sys; print('open' if os.access(sys.argv[1], os.W_OK) else 'EACCES')"
# argv: a process: read its folder, then end it.
SIBLING = """
import errno, os, signal, sys
try:
    assert "mine" in os.listdir(f"/proc/{sys.argv[1]}/cwd")
    os.kill(int(sys.argv[1]), signal.SIGKILL)
    print("open")
except OSError as e: print(errno.errorcode[e.errno])
"""
NETLINK_AUDIT = (16, 3, 9)


def outside(code: str, *args: object) -> str:
    """The control: the same attack without a sandbox."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, args)], capture_output=True, check=False, timeout=60
    )
    return done.stdout.decode().strip()


def refused_too(answer: str) -> str:
    """A control that did not work either: for want of a right, or because this kernel has no such thing."""
    return answer if answer == "open" else f"refused too: {answer}"


def inside(session: Session, code: str, *args: object) -> str:
    return python(session, code, *map(str, args))


def root() -> bool:
    return os.geteuid() == 0
