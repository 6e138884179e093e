"""A session of level `basic`: one bubblewrap per command around one workspace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import SandboxSpec
from worker.adapters.sandbox.command import Mount, Overlay, environment, options, program
from worker.adapters.sandbox.process import Ended, Launch, ours, run
from worker.adapters.sandbox.session import Call, Objects, WorkspaceSession
from worker.adapters.sandbox.stage import View
from worker.adapters.sandbox.workspace import Files


@dataclass(frozen=True)
class Box:
    """What every sandbox of one session shares."""

    bwrap: Path
    launch: Launch
    seccomp: bytes
    view: View
    etc: Path
    objects: tuple[Path, ...]
    python: Path | None


class BwrapSession(WorkspaceSession):
    """Made by `BwrapSandbox.open`. Only the workspace lasts from one command to the next: /tmp and the home
    directory are new each time."""

    _grouped = False  # whether a control group limits what runs

    def __init__(
        self,
        spec: SandboxSpec,
        box: Box,
        files: Files,
        objects: Objects,
        *,
        cleanup: ExitStack,
        max_pack: int,
        first: str = "",
    ) -> None:
        self._box = box
        super().__init__(spec, files, objects, cleanup=cleanup, max_pack=max_pack, first=first)

    @property
    def _search_path(self) -> str:
        python = self._box.python
        return environment(None if python is None else str(python / "bin"))["PATH"]

    def _seen(self, path: Path) -> str:
        return self._box.view.path(path)

    def _command(self, call: Call, *, writable: bool = True) -> Ended:
        self._check_open()
        with ours(), self._box.view.scratch() as places:
            scratch = [Mount(source, target, writable=True) for target, source in places.items()]
            return self._run(call, [*scratch, self._workspace(writable=writable), *self._extra()])

    def _run(self, call: Call, mounts: Sequence[Mount | Overlay]) -> Ended:
        self._check_open()
        return run(
            self._box.launch,
            self._options(mounts),
            program(call.argv, cwd=call.cwd, env=call.env, limits=self._spec.limits, grouped=self._grouped),
            seccomp=self._box.seccomp,
            timeout=call.timeout,
            keep=call.keep,
            stdin=call.stdin,
            cancel=call.cancel,
        )

    def _options(self, mounts: Sequence[Mount | Overlay]) -> list[str]:
        """bubblewrap's options for `mounts` and what every sandbox of the session sees."""
        box = self._box
        shown = [*mounts]
        masks = []
        for number, objects in enumerate(box.objects):
            shown.append(Mount(self._seen(objects), f"/git/objects/{number}"))
            if (objects / "info").is_dir():  # names places on the host
                masks.append(f"/git/objects/{number}/info")
        extra_path = None
        if box.python is not None:
            shown.append(Mount(self._seen(box.python), str(box.python)))
            extra_path = str(box.python / "bin")
        etc = self._seen(box.etc)
        return options(shown, self._spec.limits, etc=etc, extra_path=extra_path, masks=masks)
