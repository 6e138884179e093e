"""Run one program in a container of its own to its end: bounded output, bounded time, and nothing of it left alive."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from agent.protocols import ExecStatus
from worker.adapters.sandbox.capture import Stream
from worker.adapters.sandbox.engine import Engine, environment
from worker.adapters.sandbox.process import Ended, ours
from worker.errors import SandboxUnavailable

_CHUNK = 1 << 16
_START_SECONDS = 60.0  # until the first process runs; not part of a command's own time
_POLL = 0.02
REPORT = "/.ended"

# The first process of the container. It waits for the command only: when it ends, the kernel kills what is left. Its
# words go into a file that it shares with the host: engines answer with codes that a command could have ended with,
# and mix their own words into its stderr. No forks, since the command may have used up the processes. What it counts
# is out of memory kills, in the files of either version of control groups.
FIRST = f"""exec 3>>{REPORT} 4>&2 2>/dev/null
echo started >&3
(exec "$@") 2>&4 3>&- 4>&-
code=$?
oom=0
for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
  [ -r "$file" ] && while read -r key value; do [ "$key" = oom_kill ] && oom=$value; done <"$file"
done
echo "ended $code $oom" >&3
exit 0
"""


class Report:
    """The file that the first process writes to. A command can write to it too, and then lies about itself only."""

    def __init__(self, path: Path, uid: int) -> None:
        self.path = path
        path.touch(mode=0o600)
        os.chown(path, uid, -1)

    def clear(self) -> None:
        os.truncate(self.path, 0)

    def started(self) -> bool:
        return self.path.stat().st_size > 0

    def ended(self) -> tuple[int, bool] | None:
        """The return code, and whether the kernel killed something for memory; None when that isn't told."""
        with self.path.open("rb") as file:
            words = file.read(200).decode("ascii", "replace").split()
        match words:
            case ["started", "ended", code, kills] if code.isdigit() and kills.isdigit():
                return int(code) & 0xFF, int(kills) > 0
        return None


def run(
    engine: Engine,
    name: str,
    options: Sequence[str],
    program: Sequence[str],
    *,
    report: Report,
    timeout: float,
    keep: int,
    stdin: bytes | None = None,
    cancel: Event | None = None,
) -> Ended:
    """Run `program`, which starts with FIRST, in a container called `name` made of `options`. What ends it early:
    more than four times `keep` bytes on a stream, `timeout` seconds from its start, or `cancel`.
    SandboxUnavailable when the engine failed."""
    with ours(), ExitStack() as stack:
        report.clear()
        source = _input(stack, stdin)
        command = engine.command("run", "--rm", "--name", name, *(() if stdin is None else ("-i",)), *options)
        cli = subprocess.Popen(
            [*command, *program],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
        assert cli.stdout is not None
        assert cli.stderr is not None
        stack.callback(cli.stdout.close)
        stack.callback(cli.stderr.close)
        out, err = Stream(keep), Stream(keep)
        streams = {cli.stdout.fileno(): out, cli.stderr.fileno(): err}
        ended = False
        try:
            ending, seconds = _watch(cli, report, streams, timeout, keep, cancel)
            ended = ending is ExecStatus.EXIT and cli.returncode == 0
        finally:
            if not ended:
                _kill(engine, name, cli)
        if ending is not ExecStatus.EXIT:
            for fd, stream in streams.items():
                while stream.total <= 4 * keep and (data := os.read(fd, _CHUNK)):  # no writer is left
                    stream.feed(data)
            return Ended(ending, None, out, err, seconds)
        if cli.returncode != 0 and not report.started():
            raise SandboxUnavailable(f"{engine.name} could not start a container: {err.captured().text.strip()[-500:]}")
        told = report.ended()
        if cli.returncode == 137 or (told is not None and told[0] != 0 and told[1]):
            # Nothing inside can kill the first process. The kernel did, for memory; an operator's kill reads the same.
            return Ended(ExecStatus.OOM, None, out, err, seconds)
        if cli.returncode != 0:
            raise SandboxUnavailable(f"a container ended with {cli.returncode} before the command did")
        code = 255 if told is None else told[0]  # the command spoiled the report
        return Ended(ExecStatus.EXIT, code, out, err, seconds)


def _kill(engine: Engine, name: str, cli: subprocess.Popen[bytes]) -> None:
    """The engine's program first: it might be about to start the container, and it holds up the removal when a flood
    of output is stuck in it."""
    cli.kill()
    cli.wait()
    engine.remove(name)


def _watch(
    cli: subprocess.Popen[bytes],
    report: Report,
    streams: dict[int, Stream],
    timeout: float,
    keep: int,
    cancel: Event | None,
) -> tuple[ExecStatus, float]:
    """Feed the streams until the engine's program has ended and all of its output is read (`exit`), or one of our
    limits is met. A command's clock starts when it does."""
    clock = _Clock(timeout)
    with selectors.DefaultSelector() as selector:
        for fd in streams:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            if cancel is not None and cancel.is_set():
                return ExecStatus.CANCELLED, clock.seconds
            if clock.began is None and report.started():
                clock.start()
            if clock.left <= 0:
                return ExecStatus.TIMEOUT, clock.seconds
            wait = clock.left if clock.began is not None and cancel is None else min(clock.left, _POLL)
            for fd in [key.fd for key, _ in selector.select(wait)]:
                data = os.read(fd, _CHUNK)
                streams[fd].feed(data)
                if streams[fd].total > 4 * keep:
                    return ExecStatus.OUTPUT_LIMIT, clock.seconds
                if not data:
                    selector.unregister(fd)
    cli.wait(timeout=_START_SECONDS)
    return ExecStatus.EXIT, clock.seconds


class _Clock:
    """Runs from the request, and anew from the command's start."""

    def __init__(self, timeout: float) -> None:
        self.began: float | None = None
        self._timeout = timeout
        self._zero = time.monotonic()

    def start(self) -> None:
        self.began = self._zero = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._zero

    @property
    def left(self) -> float:
        """SandboxUnavailable when the engine took too long to start."""
        if self.began is not None:
            return self._timeout - self.seconds
        left = _START_SECONDS - self.seconds
        if left <= 0:
            raise SandboxUnavailable(f"a container did not start within {_START_SECONDS:.0f} s")
        return left


def _input(stack: ExitStack, data: bytes | None) -> int:
    if data is None:
        return subprocess.DEVNULL
    fd = os.memfd_create("devstral-fix", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as out:
        out.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
