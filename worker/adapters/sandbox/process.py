"""Run one bubblewrap process to its end: bounded output, bounded time, and nothing of it left alive."""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event

from agent.protocols import ExecStatus
from worker.adapters.sandbox.capture import Stream
from worker.errors import SandboxUnavailable

_CHUNK = 1 << 16
_CANCEL_POLL = 0.05  # a threading.Event has no descriptor to wait on
_DEATH_SECONDS = 10.0


@dataclass(frozen=True)
class Launch:
    """How bubblewrap is started: `prefix` is a trusted launcher, `uid` is dropped to before it (None: stay)."""

    bwrap: str
    prefix: tuple[str, ...] = ()
    uid: int | None = None


@dataclass(frozen=True)
class Ended:
    """`returncode` is the command's own, and only there for `exit`."""

    status: ExecStatus
    returncode: int | None
    stdout: Stream
    stderr: Stream
    seconds: float


@dataclass
class _Tree:
    """The processes of one sandbox: bubblewrap outside, and the first process of its pid namespace."""

    outer: subprocess.Popen[bytes]
    status: int
    stack: ExitStack
    report: bytearray = field(default_factory=bytearray)
    first: int | None = None  # a pidfd

    def read_status(self) -> bool:
        """Take what bubblewrap has reported, first of all the pid; False when there is nothing more to come."""
        data = read_now(self.status)
        self.report += data or b""
        if self.first is None:
            pid = self._value("child-pid")
            if pid is not None:
                with suppress(ProcessLookupError):
                    self.first = os.pidfd_open(pid)
                    self.stack.callback(os.close, self.first)
        return data != b""

    def kill(self) -> None:
        """When the first process of a pid namespace dies, the kernel kills all others before it counts as dead."""
        if self.first is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first, signal.SIGKILL)
        self.outer.kill()
        self.outer.wait()
        self.read_status()
        if self.first is not None and not select.select([self.first], [], [], _DEATH_SECONDS)[0]:
            raise SandboxUnavailable("a sandbox could not be killed")

    @property
    def exit_code(self) -> int | None:
        """None when bubblewrap failed before the command started."""
        return self._value("exit-code")

    def _value(self, key: str) -> int | None:
        for line in bytes(self.report).split(b"\n")[:-1]:
            value = json.loads(line).get(key)
            if isinstance(value, int):
                return value
        return None


@contextmanager
def ours() -> Iterator[None]:
    """What the host's own files, descriptors and programs fail with is the sandbox's failure, not a command's."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as e:
        raise SandboxUnavailable(f"the sandbox failed on the host: {e}") from e


def run(
    launch: Launch,
    options: Sequence[str],
    program: Sequence[str],
    *,
    seccomp: bytes,
    timeout: float,
    keep: int,
    keep_stderr: int | None = None,
    stdin: bytes | None = None,
    cancel: Event | None = None,
) -> Ended:
    """Run `program` in a sandbox made of `options`. What ends it early: more than four times `keep` bytes on a stream
    (`output_limit`), `timeout` seconds, or `cancel` (`cancelled`). SandboxUnavailable when bubblewrap failed."""
    started = time.monotonic()
    with ours(), ExitStack() as stack:
        out, out_end = pipe(stack)
        err, err_end = pipe(stack)
        status, status_end = pipe(stack)
        filter_fd = memory(stack, seccomp)
        options = [*options, "--seccomp", str(filter_fd), "--json-status-fd", str(status_end)]
        # Through a descriptor: a process's own command line is readable inside, and lengths are limited.
        args_fd = memory(stack, b"".join(os.fsencode(option) + b"\0" for option in options))
        source = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if stdin is None else memory(stack, stdin)
        if stdin is None:
            stack.callback(os.close, source)
        try:
            outer = subprocess.Popen(
                [*launch.prefix, launch.bwrap, "--args", str(args_fd), "--", *program],
                stdin=source,
                stdout=out_end,
                stderr=err_end,
                pass_fds=(args_fd, filter_fd, status_end),
                env={},
                cwd="/",
                umask=0o022,
                start_new_session=True,
                user=launch.uid,
                group=launch.uid,
                extra_groups=None if launch.uid is None else [],
            )
        finally:
            for end in (out_end, err_end, status_end):
                os.close(end)
        tree = _Tree(outer, status, stack)
        streams = {out: Stream(keep), err: Stream(keep if keep_stderr is None else keep_stderr)}
        try:
            ending = _watch(tree, streams, started + timeout, keep, cancel)
        finally:
            tree.kill()
        for fd, stream in streams.items():  # every writer is dead: the rest is what the pipe holds
            while ending is not ExecStatus.OUTPUT_LIMIT and (data := read_now(fd)):
                stream.feed(data)
                if flooded(stream, keep):
                    ending = ExecStatus.OUTPUT_LIMIT
        code = tree.exit_code
        if ending is ExecStatus.EXIT and code is None:
            raise SandboxUnavailable(_failure(outer.returncode, streams[err]))
        seconds = time.monotonic() - started
        return Ended(ending, code if ending is ExecStatus.EXIT else None, streams[out], streams[err], seconds)


def _watch(tree: _Tree, streams: dict[int, Stream], deadline: float, keep: int, cancel: Event | None) -> ExecStatus:
    """Feed the streams until bubblewrap ends (`exit`) or one of our limits does."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        ended = os.pidfd_open(tree.outer.pid)
        stack.callback(os.close, ended)
        for fd in (*streams, tree.status, ended):
            selector.register(fd, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if cancel is not None and cancel.is_set():
                return ExecStatus.CANCELLED
            if left <= 0:
                return ExecStatus.TIMEOUT
            ready = {key.fd for key, _ in selector.select(left if cancel is None else min(left, _CANCEL_POLL))}
            if tree.status in ready and not tree.read_status():
                selector.unregister(tree.status)
            for fd in ready & streams.keys():
                data = read_now(fd)
                streams[fd].feed(data or b"")
                if flooded(streams[fd], keep):
                    return ExecStatus.OUTPUT_LIMIT
                if data == b"":
                    selector.unregister(fd)
            if ended in ready:
                return ExecStatus.EXIT


def flooded(stream: Stream, keep: int) -> bool:
    return stream.total > 4 * keep


def _failure(returncode: int, stderr: Stream) -> str:
    # Killed from outside, a command may have printed already: only bubblewrap's own words go into an error.
    if returncode != 1:
        return f"bubblewrap ended with {returncode} before the command did"
    return f"bubblewrap could not set up a sandbox: {stderr.captured().text.strip()[:500]}"


def pipe(stack: ExitStack) -> tuple[int, int]:
    """A non-blocking read end, closed with `stack`, and a write end that the caller closes after the start."""
    read, write = os.pipe()
    stack.callback(os.close, read)
    os.set_blocking(read, False)
    return read, write


def memory(stack: ExitStack, data: bytes) -> int:
    fd = os.memfd_create("devstral-fix", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as out:
        out.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_now(fd: int) -> bytes | None:
    """What is there now; empty at the end of the stream, None when nothing is ready."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
