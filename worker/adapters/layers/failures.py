"""Set-ups that failed, remembered for a while, so that a backlog of one repository pays for a broken one once."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from worker.stages.ports import FailedSetUp

_LONGEST_LOG = 64_000  # characters of one that are read back


class Failures:
    """One file for each key, below `folder`. A damaged one counts as none."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    def record(self, key: str, failed: FailedSetUp) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        with os.fdopen(fd, "w") as out:
            json.dump({"reason": failed.reason, "log": failed.log[-_LONGEST_LOG:]}, out)
        Path(name).rename(self._folder / key)

    def find(self, key: str) -> FailedSetUp | None:
        path = self._folder / key
        try:
            if self._old(path):
                return None
            return FailedSetUp.model_validate_json(path.read_text())
        except (OSError, ValueError):
            return None

    def forget(self, key: str | None = None) -> int:
        """Forget one, or all; how many there were."""
        gone = 0
        for path in self._files() if key is None else [self._folder / key]:
            if path.exists():
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    def sweep(self) -> None:
        for path in self._files():
            if self._old(path):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.is_dir() else []

    def _old(self, path: Path) -> bool:
        try:
            return not 0 <= time.time() - path.stat().st_mtime <= self._seconds
        except FileNotFoundError:
            return True
