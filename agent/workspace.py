"""A session with the run's limits built in, so that no tool can forget them, and with the tree ids it went through."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from threading import Event

from agent.errors import NotSaved
from agent.protocols import ExecResult, Session

_SHORTEST = 0.1  # seconds; a command that may not start at all is the loop's decision, not ours


class Workspace(Session):
    """`deadline` is a time.monotonic() value. `tree` is the last known content, `base_tree` the first one; `unsaved`
    says that something may have changed since, and `problem` why that could not be saved."""

    def __init__(self, session: Session, command_seconds: float, deadline: float, cancel: Event) -> None:
        self._session = session
        self._command_seconds = command_seconds
        self._deadline = deadline
        self._cancel = cancel
        self.base_tree: str | None = None
        self.tree: str | None = None
        self.unsaved = False
        self.problem: NotSaved | None = None

    @property
    def unchanged(self) -> bool:
        return self.tree == self.base_tree

    def open(self, tree: str | None = None) -> None:
        """Begin at the base, or go on at `tree`. The base is looked at in either case: it is what a change is measured
        against."""
        self.base_tree = self.tree = self.snapshot()
        if tree is not None and tree != self.base_tree:
            self.reset(tree)
            self.tree = tree

    def touch(self) -> None:
        """Something is about to run that may change files."""
        self.unsaved, self.problem = True, None

    def save(self) -> str | None:
        """Take a snapshot if something may have changed. The new tree's id, or None if it is the same as before.
        NotSaved leaves `tree` as it was, and nothing is tried again before something else has run."""
        before = self.tree
        if self.unsaved and self.problem is None:
            try:
                self.tree = self.snapshot()
            except NotSaved as problem:
                self.problem = problem
                raise
            self.unsaved = False
        return self.tree if self.tree != before else None

    def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        timeout: float,
        max_output: int = 1 << 20,
        cancel: Event | None = None,
    ) -> ExecResult:
        left = max(self._deadline - time.monotonic(), _SHORTEST)
        return self._session.exec(
            argv,
            cwd=cwd,
            env=env,
            timeout=min(timeout, self._command_seconds, left),
            max_output=max_output,
            cancel=cancel or self._cancel,
        )

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        return self._session.read(path, max_bytes=max_bytes)

    def write(self, path: str, data: bytes) -> None:
        self._session.write(path, data)

    def snapshot(self) -> str:
        return self._session.snapshot()

    def reset(self, tree: str) -> None:
        self._session.reset(tree)

    def close(self) -> None:
        self._session.close()
