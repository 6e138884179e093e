"""A session of level `strict`: one long-lived sandbox in control groups, on a copy-on-write workspace.

The workspace is an overlay: a shared base below, and a file system in memory, of limited size, above. What a session
writes is seen by no other, and is gone with its last process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from threading import Lock, Thread

from agent.protocols import ExecStatus, SandboxLimits, SandboxSpec
from worker.adapters.sandbox import scripts
from worker.adapters.sandbox.bases import Base
from worker.adapters.sandbox.bwrap_session import Box, BwrapSession
from worker.adapters.sandbox.cgroup import Group
from worker.adapters.sandbox.command import WORKSPACE, Mount, Overlay, program
from worker.adapters.sandbox.persistent import Server, joined
from worker.adapters.sandbox.process import Ended
from worker.adapters.sandbox.session import Call, Objects
from worker.adapters.sandbox.stage import SCRATCH, View
from worker.adapters.sandbox.workspace import Files

_SERVER_BYTES = 128 << 20
_SERVER_PROCESSES = 32


@dataclass
class Ground:
    """What a session stands on for one base: the base, and a view in which it and the session's quota are mounted."""

    base: Base
    view: View

    def close(self) -> None:
        self.view.close()
        self.base.release()


class Limited:
    """The control groups of one session: `server` for the sandbox itself, `command` for what it runs."""

    def __init__(self, group: Group, limits: SandboxLimits) -> None:
        self.memory = limits.memory_bytes
        self.group = group
        group.limit_cpus(limits.cpus)
        self.server = group.child("server", share_cpu=True)
        self.server.limit_memory(_SERVER_BYTES)
        self.server.limit_processes(_SERVER_PROCESSES)
        self.command = group.child("command", share_cpu=True)
        self.command.limit_memory(self.memory)
        self.command.limit_processes(limits.processes)


class StrictSession(BwrapSession):
    """Made by `BwrapSandbox.open`. Files below /tmp and the home directory last until `reset`; processes don't outlive
    their command. `ground` makes what a tree's sandbox stands on."""

    _grouped = True

    def __init__(
        self,
        spec: SandboxSpec,
        box: Box,
        files: Files,
        objects: Objects,
        *,
        cleanup: ExitStack,
        max_pack: int,
        limited: Limited,
        ground: Callable[[str], Ground],
        python: str,
    ) -> None:
        self._limited = limited
        self._make_ground = ground
        self._ground: Ground | None = None
        self._server: Server | None = None
        self._python = python
        self._lock = Lock()
        self._old: list[Thread] = []
        cleanup.callback(self._stop)
        super().__init__(spec, box, files, objects, cleanup=cleanup, max_pack=max_pack)

    def _fill(self, tree: str) -> None:
        """A new upper layer, and with it a new sandbox."""
        with self._lock:
            forget = self._leave()
            try:
                self._begin(tree)
            finally:  # only now: unmounting would slow the new one's mounts
                self._old = [thread for thread in self._old if thread.is_alive()]
                self._old.append(Thread(target=forget, name="sandbox-unmount", daemon=True))
                self._old[-1].start()

    def _begin(self, tree: str) -> None:
        self._ground = self._make_ground(tree)
        view = self._ground.view
        launch = joined(view.launch(self._box.bwrap), self._limited.command)
        self._box = replace(self._box, launch=launch, view=view)
        self._serve()

    def _serve(self) -> Server:
        """The running server; a new one, on the same files, when the last died."""
        if self._server is not None and self._server.alive:
            return self._server
        assert self._ground is not None
        view = self._ground.view
        quota = f"{view.place}/quota"
        base = self._seen(self._ground.base.workspace)
        self._server = Server(
            view.launch(self._box.bwrap),
            self._options(
                [
                    *(Mount(f"{view.place}/{name}", target, writable=True) for name, target in SCRATCH.items()),
                    Overlay(base, f"{quota}/upper", f"{quota}/work", WORKSPACE),
                    *self._extra(),
                ]
            ),
            self._python,
            seccomp=self._box.seccomp,
            own=self._limited.server,
            command=self._limited.command,
        )
        return self._server

    def _leave(self) -> Callable[[], None]:
        """End everything that runs, now. What it was mounted on is left to the answer: forgetting ten thousand files
        takes the kernel 140 ms."""
        server, ground = self._server, self._ground
        self._server = self._ground = None
        if server is not None:
            server.close(unmount=False)

        def forget() -> None:
            if server is not None:
                server.release()
            if ground is not None:
                ground.close()

        return forget

    def _stop(self) -> None:
        """The same, and nothing is left when it returns."""
        self._leave()()
        for thread in self._old:
            thread.join()

    def _command(self, call: Call, *, writable: bool = True) -> Ended:  # noqa: ARG002
        """The sandbox lasts: what runs in it is as free as the agent, whatever is asked for."""
        with self._lock:
            self._check_open()
            words = program(call.argv, cwd=call.cwd, env=call.env, limits=self._spec.limits, grouped=True)
            server = self._serve()
            group = self._limited.command
            # Files live in memory and were charged to the commands that wrote them: this one gets its full share.
            group.limit_memory(self._limited.memory + self._used())
            before = (group.oom_kills, group.refused_forks)
            ended = server.run(words, timeout=call.timeout, keep=call.keep, stdin=call.stdin, cancel=call.cancel)
            return self._explained(ended, group.oom_kills - before[0], group.refused_forks - before[1])

    def _explained(self, ended: Ended, killed: int, refused: int) -> Ended:
        """The limit that a failed command ran into, where there is one."""
        if ended.returncode == 0 or ended.status not in {ExecStatus.EXIT, ExecStatus.TIMEOUT}:
            return ended
        if killed:
            return replace(ended, status=ExecStatus.OOM, returncode=None)
        if refused:
            return replace(ended, status=ExecStatus.PIDS, returncode=None)
        if ended.status is ExecStatus.EXIT and self._full():
            return replace(ended, status=ExecStatus.DISK, returncode=None)
        return ended

    def _used(self) -> int:
        """Bytes of memory that files of earlier commands hold."""
        return sum((found.f_blocks - found.f_bfree) * found.f_frsize for found in self._file_systems())

    def _full(self) -> bool:
        return any(found.f_bavail == 0 or found.f_favail == 0 for found in self._file_systems())

    def _file_systems(self) -> list[os.statvfs_result]:
        assert self._ground is not None
        return [os.fstatvfs(fd) for fd in self._ground.view.file_systems.values()]

    def _read_tree(self) -> Ended:
        return self._look(self._snapshot_by(scripts.SNAPSHOT_CHANGED))

    def _look(self, call: Call) -> Ended:
        with self._lock:
            self._check_open()
            assert self._ground is not None
            quota = f"{self._ground.view.place}/quota"
            base = self._ground.base
            mounts: list[Mount | Overlay] = [
                Overlay(self._seen(base.workspace), f"{quota}/upper", None, WORKSPACE),
                Mount(f"{quota}/upper", "/upper"),
                Mount(self._seen(base.git_dir), "/gitdir"),
            ]
            self._limited.command.limit_memory(self._limited.memory + self._used())
            try:
                return self._run(call, mounts)
            finally:
                self._limited.command.kill()
