"""A repository, changes to it, and the service's own verification of them in real sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from agent.evidence import Verdict, decide
from agent.outcome import Evidence, Execution, Patch
from agent.protocols import Isolation, Mount, Sandbox, SandboxSpec, Session
from agent.types import ExitStatus
from tests.sandboxes import git, place
from worker.adapters.sandbox import ToolSandbox
from worker.runs.baselines import Key
from worker.stages.config import RepositoryConfig
from worker.stages.ports import Layer
from worker.stages.verification import Subject, Taken, Verifier

SITE = Path(pytest.__file__).parent.parent
PYTEST = "python3 -m pytest -q tests"


class Memory:
    """Baselines of this process."""

    def __init__(self) -> None:
        self.kept: dict[Key, Execution] = {}

    def of(self, key: Key, execute: Callable[[], tuple[Execution, bool]], *, seconds: float) -> tuple[Execution, bool]:
        if key in self.kept:
            return self.kept[key], True
        self.kept[key] = execute()[0]
        return self.kept[key], False


@dataclass
class Counted:
    """A sandbox; what runs inside can read how many were opened before, and so end differently."""

    inner: Sandbox
    folder: Path
    opened: list[str] = field(default_factory=list)
    capabilities = frozenset[str]()

    @property
    def isolation(self) -> Isolation:
        return self.inner.isolation

    def open(self, spec: SandboxSpec) -> Session:
        (self.folder / "opened").write_text(str(len(self.opened)))
        self.opened.append(spec.tree)
        return self.inner.open(spec)


class Bench:
    """One repository. `verify` says what comes of a change: a text is a file's new content, None removes it.

    `tools` are folders of programs as an operator shows them, `layer` what a set-up made."""

    def __init__(
        self,
        folder: Path,
        files: Mapping[str, str | bytes],
        *,
        tools: Sequence[Path] = (),
        layer: Layer | None = None,
    ) -> None:
        texts = {path: content for path, content in files.items() if isinstance(content, str)}
        binary = {path: content for path, content in files.items() if isinstance(content, bytes)}
        self.place = place(folder, texts)
        self.source = folder / "source"
        self.base = self.place.commit
        # What git writes for a change there is seen through the repository of the run.
        alternates = self.place.git_dir / "objects" / "info" / "alternates"
        alternates.write_text(f"{alternates.read_text()}{self.source / '.git' / 'objects'}\n")
        if binary:
            self.base = self.commit(binary)
        (folder / "count").mkdir()
        self.sandbox = Counted(ToolSandbox(self.place.sandbox, tools), folder / "count")
        self.layer = layer or Layer(
            mounts=(
                Mount(source=SITE, target="/opt/site"),
                Mount(source=self.sandbox.folder, target="/opt/count"),
            ),
            env={"PYTHONPATH": "/opt/site", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            path=(),
        )
        self.baselines = Memory()
        self.taken: Taken | None = None

    def tree(self, changes: Mapping[str, str | bytes | None]) -> str:
        git(self.source, "read-tree", "--reset", "-u", self.base)
        for path, content in changes.items():
            file = self.source / path
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        git(self.source, "add", "-A", "-f")
        tree = git(self.source, "write-tree")
        git(self.source, "reset", "-q", "--hard", self.base)
        git(self.source, "clean", "-q", "-f", "-d", "-x")
        return tree

    def commit(self, changes: Mapping[str, str | bytes | None]) -> str:
        return git(self.source, "commit-tree", self.tree(changes), "-p", self.base, "-m", "more")

    def patch(self, changes: Mapping[str, str | bytes | None]) -> Patch:
        return self.place.repos.patch(self.place.git_dir, self.base, self.tree(changes))

    def verify(self, changes: Mapping[str, str | bytes | None], *, test: str = PYTEST, **settings: object) -> Verdict:
        patch = self.patch(changes)
        config = RepositoryConfig.model_validate({"test": test, **settings})
        subject = Subject(
            git_dir=self.place.git_dir, repository="acme/calc", patch=patch, settings=config, layer=self.layer
        )
        known = len(self.baselines.kept)
        self.taken = self._taken(subject)
        if len(self.baselines.kept) > known:  # so that it costs the same whichever test comes first
            self.taken = self._taken(subject)
        return decide(
            ExitStatus.SUBMITTED,
            patch_is_empty=patch.empty,
            test_command=config.test,
            evidence=self.taken.evidence,
            comparison=self.taken.comparison,
            doubts=self.taken.doubts,
        )

    def _taken(self, subject: Subject) -> Taken:
        recorded: list[Evidence] = []
        self.sandbox.opened.clear()
        verifier = Verifier(sandbox=self.sandbox, repositories=self.place.repos, baselines=self.baselines)
        taken = verifier.verify(subject, cancel=Event(), record=recorded.append)
        assert recorded == list(taken.evidence)
        return taken

    def piece(self, stage: str) -> Evidence:
        assert self.taken is not None
        (found,) = [piece for piece in self.taken.evidence if piece.stage == stage]
        return found
