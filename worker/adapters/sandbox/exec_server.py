"""Runs inside a sandbox as its first process: starts commands when told to, reaps, and reports how they ended.

Its text is handed to `python3 -c`; it imports the standard library only. Nothing outside trusts what it says: see
`persistent` for the host's side. One message of a SOCK_SEQPACKET socket (its standard input) is one JSON object:

    {"id": 0}                with descriptors: files to which each command writes `0` before it is anything else
    {"id": N}                with descriptors: the program as JSON (a list of words), stdin, stdout, stderr
    {"id": N, "code": C}     the answer: a return code, 128 + the signal when one ended it
"""

import array
import ctypes
import json
import os
import select
import signal
import socket
from collections.abc import Iterator

_PR_SET_DUMPABLE = 4
_FAILED = 125


def _receive(server: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, ancillary, _, _ = server.recvmsg(4096, socket.CMSG_SPACE(16 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
    return data, list(fds)


def _become(fds: list[int], groups: list[int]) -> None:
    """The child: joins its control groups, takes its streams, and becomes the program."""
    for fd in groups:
        os.write(fd, b"0")
    os.setsid()
    # Python ignores these, and what is ignored stays so in the program.
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    with os.fdopen(os.dup(fds[0]), "rb") as source:
        words = json.loads(source.read())
    for target, fd in enumerate(fds[1:]):
        os.dup2(fd, target)
    os.execve(words[0], words, os.environ)  # noqa: S606 - that is its purpose


def _ended() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def main() -> None:
    # Commands have the same uid: without this they could open our memory and descriptors in /proc/1.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    server = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    groups: list[int] = []
    running: dict[int, int] = {}
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if server.fileno() in ready:
            data, fds = _receive(server)
            if not data:
                return
            number = json.loads(data)["id"]
            if number == 0:
                groups = fds
                server.send(b'{"id": 0, "code": 0}')
            else:
                pid = os.fork()
                if pid == 0:
                    try:
                        _become(fds, groups)
                    finally:
                        os._exit(_FAILED)
                running[pid] = number
                for fd in fds:
                    os.close(fd)
        if woken in ready:
            os.read(woken, 4096)
        for pid, code in _ended():
            if pid in running:
                answer = {"id": running.pop(pid), "code": code if code >= 0 else 128 - code}
                server.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
