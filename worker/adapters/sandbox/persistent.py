"""The host's side of one long-lived sandbox: start it, hand it commands, believe nothing it says, end it.

What a command may do is decided by its control group: limits, and a kill that nothing survives, come from there. The
server inside only says when a command's first process ended, and a lie there ends a command early or late, no more.
"""

from __future__ import annotations

import array
import os
import re
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

from agent.protocols import ExecStatus
from worker.adapters.sandbox import exec_server
from worker.adapters.sandbox.capture import Stream
from worker.adapters.sandbox.cgroup import JOIN, Group
from worker.adapters.sandbox.process import Ended, Launch, flooded, memory, pipe, read_now
from worker.errors import SandboxUnavailable

_START_SECONDS = 30.0
_CANCEL_POLL = 0.05
_FRAME = 64
_ANSWER = re.compile(rb"([0-9]{1,15}) ([0-9]{1,3})")
_END_SECONDS = 5.0
_END_POLL = 0.02


def joined(launch: Launch, group: Group) -> Launch:
    """The same launch, begun in `group`. It must drop its uid by its own prefix: groups are joined before."""
    words = ("/bin/sh", "-c", JOIN, "sh", *map(str, group.procs), "--")
    return Launch(launch.bwrap, prefix=(*words, *launch.prefix), uid=launch.uid)


class Server:
    """One sandbox made of `options`, with its server in the group `own`; commands run in the group `command`.

    Not for two threads at once. After SandboxUnavailable it is dead, and so is everything in it."""

    def __init__(
        self, launch: Launch, options: Sequence[str], python: str, *, seccomp: bytes, own: Group, command: Group
    ) -> None:
        self._command = command
        self._own = own
        self._number = 0
        self.alive = True
        self._inner: list[int] = []
        self._mounts: list[int] = []
        self._socket, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = Path(exec_server.__file__).read_text()
        try:
            with ExitStack() as stack:
                errors = os.memfd_create("devstral-fix", os.MFD_CLOEXEC)
                stack.callback(os.close, errors)
                filter_fd = memory(stack, seccomp)
                # The kernel would take the thread that starts it for the parent. The server ends with its socket.
                words = [word for word in options if word != "--die-with-parent"]
                words += ["--as-pid-1", "--seccomp", str(filter_fd)]
                args_fd = memory(stack, b"".join(os.fsencode(word) + b"\0" for word in words))
                started = joined(launch, own)
                self._outer = subprocess.Popen(
                    [*started.prefix, started.bwrap, "--args", str(args_fd), "--", python, "-I", "-S", "-c", code],
                    stdin=inner.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(args_fd, filter_fd),
                    env={},
                    cwd="/",
                    umask=0o022,
                    start_new_session=True,
                )
                inner.close()
                try:
                    self._greet()
                except SandboxUnavailable as e:
                    said = os.pread(errors, 2000, 0).decode("utf-8", "replace").strip()
                    raise SandboxUnavailable(f"a sandbox did not start: {said[-500:] or e}") from e
        except BaseException:
            inner.close()
            self.close()
            raise
        # bubblewrap outside and the server: anything else that turns up here has no business to be.
        self._members = own.members()
        for pid in self._members - {self._outer.pid}:
            with suppress(ProcessLookupError):
                self._inner.append(os.pidfd_open(pid))
            with suppress(OSError):  # a plain user may not: then the kernel unmounts while the last process ends
                self._mounts.append(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))

    def _greet(self) -> None:
        with ExitStack() as stack:
            fds = []
            for path in (path for path in self._command.procs if path not in self._own.procs):
                fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            self._send(fds)
            self._socket.settimeout(_START_SECONDS)
            try:
                self._answer(self._socket.recv(_FRAME + 1))
            except OSError as e:
                raise SandboxUnavailable(f"the sandbox did not answer: {e}") from e
            self._socket.setblocking(False)

    def run(
        self,
        program: Sequence[str],
        *,
        timeout: float,
        keep: int,
        keep_stderr: int | None = None,
        stdin: bytes | None = None,
        cancel: Event | None = None,
    ) -> Ended:
        """As `process.run`. When it returns, nothing that the command started is alive."""
        started = time.monotonic()
        try:
            with ExitStack() as stack:
                out, out_end = pipe(stack)
                err, err_end = pipe(stack)
                ends = ExitStack()
                for end in (out_end, err_end):
                    ends.callback(os.close, end)
                with ends:
                    source = memory(stack, stdin or b"")
                    words = memory(stack, b"".join(os.fsencode(word) + b"\0" for word in program))
                    self._number += 1
                    self._send([words, source, out_end, err_end])
                streams = {out: Stream(keep), err: Stream(keep if keep_stderr is None else keep_stderr)}
                ending, code = self._watch(streams, started + timeout, keep, cancel)
                self._end(waiting=ending is not ExecStatus.EXIT)
                for fd, stream in streams.items():
                    while ending is not ExecStatus.OUTPUT_LIMIT and (data := read_now(fd)):
                        stream.feed(data)
                        if flooded(stream, keep):
                            ending, code = ExecStatus.OUTPUT_LIMIT, None
                return Ended(ending, code, streams[out], streams[err], time.monotonic() - started)
        except BaseException:
            self.close()
            raise

    def _watch(
        self, streams: dict[int, Stream], deadline: float, keep: int, cancel: Event | None
    ) -> tuple[ExecStatus, int | None]:
        with selectors.DefaultSelector() as selector:
            for fd in (*streams, self._socket.fileno()):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if cancel is not None and cancel.is_set():
                    return ExecStatus.CANCELLED, None
                if left <= 0:
                    return ExecStatus.TIMEOUT, None
                ready = {key.fd for key, _ in selector.select(left if cancel is None else min(left, _CANCEL_POLL))}
                for fd in ready & streams.keys():
                    data = read_now(fd)
                    streams[fd].feed(data or b"")
                    if flooded(streams[fd], keep):
                        return ExecStatus.OUTPUT_LIMIT, None
                    if data == b"":
                        selector.unregister(fd)
                if self._socket.fileno() in ready and (code := self._hear()) is not None:
                    return ExecStatus.EXIT, code

    def _hear(self) -> int | None:
        """The next answer; TimeoutError when there is none."""
        try:
            return self._answer(self._socket.recv(_FRAME + 1), late=True)
        except TimeoutError:
            raise
        except OSError as e:
            raise SandboxUnavailable(f"the sandbox's server is gone: {e}") from e

    def _end(self, *, waiting: bool) -> None:
        """Kill the command's group, also a first process that is only about to join it: then (`waiting`) the server
        has not answered yet, and does so when that process is dead."""
        deadline = time.monotonic() + _END_SECONDS
        self._command.kill()
        while waiting:
            if time.monotonic() > deadline:
                raise SandboxUnavailable("the sandbox's server did not answer")
            try:
                self._socket.settimeout(_END_POLL)
                waiting = self._hear() is None
            except TimeoutError:
                self._command.kill()
            finally:
                self._socket.setblocking(False)
        self._command.kill()
        if not self._own.members() <= self._members:
            raise SandboxUnavailable("processes hid beside the sandbox's server")

    def _send(self, fds: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            self._socket.sendmsg([b"%d" % self._number], rights)
        except OSError as e:
            raise SandboxUnavailable(f"the sandbox's server is gone: {e}") from e

    def _answer(self, frame: bytes, *, late: bool = False) -> int | None:
        """The return code; None for a command that was killed before (`late` allows those)."""
        if not frame:
            raise SandboxUnavailable("the sandbox's server is gone")
        found = _ANSWER.fullmatch(frame)
        if found is None or int(found[2]) > 255:
            raise SandboxUnavailable("the sandbox's server answered nonsense")
        number, code = int(found[1]), int(found[2])
        if number == self._number:
            return code
        if late and 0 < number < self._number:
            return None
        raise SandboxUnavailable("the sandbox's server answered for another command")

    def close(self, *, unmount: bool = True) -> None:
        """Kill it with everything in it. The first process inside goes first, so that bubblewrap reaps it: who
        reaps orphans here may take its time, and they count as processes of the group until then. Without `unmount`
        its mounts are left to `release`, which takes as long as the kernel needs to forget the files."""
        self.alive = False
        self._socket.close()
        while self._inner:
            fd = self._inner.pop()
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        outer = getattr(self, "_outer", None)
        if outer is not None:
            with suppress(subprocess.TimeoutExpired):
                outer.wait(timeout=1.0)
            self._own.kill()
            self._command.kill()
            outer.wait()
        if unmount:
            self.release()

    def release(self) -> None:
        """Let go of the mounts of one that was closed."""
        while self._mounts:
            os.close(self._mounts.pop())
