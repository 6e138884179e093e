"""What of a change is taken as on the base where its tests are executed, since it decides how tests are run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from agent import infrastructure
from agent.outcome import Patch
from worker.stages.ports import Repositories

_UNREADABLE = b"\xff"  # no file of any kind that is compared


def held_back(repositories: Repositories, git_dir: Path, patch: Patch, command: str) -> tuple[str, ...]:
    """The paths. `command` is the test command, with what it runs."""
    there = set(repositories.list_files(git_dir, patch.tree))
    gone = {change.path for change in patch.files if change.status == "D"}
    added = {change.path for change in patch.files if change.status == "A"}

    def read(tree: str, absent: set[str], path: str) -> bytes | None:
        if path in absent:
            return None
        data = repositories.read_file(git_dir, tree, path, max_bytes=1 << 20)
        return _UNREADABLE if data is None else data  # a link, or too large

    return infrastructure.touched(
        [change.path for change in patch.files],
        command=command,
        existing=repositories.list_files(git_dir, patch.base_commit),
        base=partial(read, patch.base_commit, added),
        patched=partial(read, patch.tree, gone - there),
    )
