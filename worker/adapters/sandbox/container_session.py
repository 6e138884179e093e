"""One workspace and the containers around it: a container per command, so that the kernel ends all of a command."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agent.protocols import SandboxSpec
from worker.adapters.sandbox.command import Mount
from worker.adapters.sandbox.container_options import Recipe, program
from worker.adapters.sandbox.container_run import REPORT, Report, run
from worker.adapters.sandbox.process import Ended
from worker.adapters.sandbox.session import Call, Objects, WorkspaceSession
from worker.adapters.sandbox.workspace import Files


class ContainerSession(WorkspaceSession):
    """Made by `ContainerSandbox.open`. As with bubblewrap, only the workspace lasts from one command to the next, and
    what git does with the agent's files it does in a container of its own. One command at a time."""

    def __init__(
        self,
        spec: SandboxSpec,
        recipe: Recipe,
        files: Files,
        objects: Objects,
        *,
        home: Path,
        uid: int,
        shown: Sequence[Mount],
        cleanup: ExitStack,
        max_pack: int,
    ) -> None:
        self._recipe = recipe
        self._home = home
        self._uid = uid
        self._shown = shown
        self._numbers = itertools.count(1)
        self._report = Report(home / "report", uid)
        super().__init__(spec, files, objects, cleanup=cleanup, max_pack=max_pack)

    @property
    def _search_path(self) -> str:
        return self._recipe.env["PATH"]

    def _run(self, call: Call, mounts: Sequence[Mount]) -> Ended:
        self._check_open()
        limits = self._spec.limits
        shown = [*mounts, *self._shown, Mount(str(self._report.path), REPORT, writable=True)]
        return run(
            self._recipe.engine,
            f"devstral-fix-{self._home.name}-{next(self._numbers)}",
            self._recipe.options(self._home, self._uid, shown, limits),
            self._recipe.words(program(call.argv, cwd=call.cwd, env=call.env, limits=limits)),
            report=self._report,
            timeout=call.timeout,
            keep=call.keep,
            stdin=call.stdin,
            cancel=call.cancel,
        )
