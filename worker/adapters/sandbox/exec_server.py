"""Runs inside a sandbox as its first process: starts commands when told to, reaps, and reports how they ended.

Its text is handed to `python3 -c`; it imports the standard library only, and of that what loads quickly: `socket`,
`signal` and `json` would triple the start, `ctypes` and `collections.abc` add 8 ms. Nothing outside trusts what it
says: see `persistent` for the host's side. One message of a SOCK_SEQPACKET socket (its standard input) is:

    b"0"      with descriptors: files to which each command writes `0` before it is anything else
    b"N"      with descriptors: the program (words that each end with a NUL), stdin, stdout, stderr
    b"N C"    the answer: a return code, 128 + the signal when one ended it
"""

import _ctypes
import _signal  # type: ignore[import-not-found]
import _socket
import os
import select

_PR_SET_DUMPABLE = 4
_FAILED = 125


def _receive(server: _socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = server.recvmsg(64, _socket.CMSG_SPACE(16 * 4), _socket.MSG_CMSG_CLOEXEC)
    return data, [fd for _, _, rights in ancillary for fd in memoryview(rights).cast("i")]


def _become(fds: list[int], groups: list[int]) -> None:
    """The child: joins its control groups, takes its streams, and becomes the program."""
    for fd in groups:
        os.write(fd, b"0")
    os.setsid()
    # Python ignores these, and what is ignored stays so in the program.
    for name in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(name, _signal.SIG_DFL)
    with os.fdopen(fds[0], "rb") as source:
        words = source.read().split(b"\0")[:-1]
    for target, fd in enumerate(fds[1:]):
        os.dup2(fd, target)
    os.execve(words[0], words, os.environ)  # noqa: S606 - that is its purpose


def _ended() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def _hide() -> None:
    """Commands have the same uid: without this they could open our memory and descriptors in /proc/1."""
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
    if _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl failed")


def main() -> None:
    _hide()
    server = _socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
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
            number = int(data)
            if number == 0:
                groups = fds
                server.send(b"0 0")
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
                server.send(b"%d %d" % (running.pop(pid), code if code >= 0 else 128 - code))


if __name__ == "__main__":
    main()
