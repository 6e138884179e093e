"""What came of each instance, kept as it comes: a line is on the disk when it is told, so a killed eval goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from pydantic import Field, ValidationError

from agent.telemetry import Telemetry
from agent.types import Frozen, Usage
from worker.errors import SettingsError

RESULTS = "results.jsonl"
PREDICTIONS = "predictions.jsonl"


class Result(Frozen):
    """One instance. `usd` is what it cost at most and `usd_low` at least; `seconds` are wall time of the agent.
    `error`: why the agent or the tests could not be run; such a row counts as not resolved."""

    instance_id: str
    model: str
    prompt_hash: str = ""
    resolved: bool
    failing: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    exit_status: str | None = None
    reason: str = ""
    steps: int = Field(default=0, ge=0)
    usage: Usage = Usage()
    usd: float = 0.0
    usd_low: float = 0.0
    seconds: float = 0.0
    telemetry: Telemetry = Telemetry()
    patch: str = ""
    error: str = ""


class Store:
    """A folder of one eval. Safe to use from several threads; one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trajectories").mkdir(exist_ok=True)
        self._path = folder / RESULTS
        self._lock = Lock()
        self.results = {result.instance_id: result for result in _mended(self._path)}

    def add(self, result: Result) -> None:
        with self._lock:
            _append(self._path, result.model_dump_json())
            self.results[result.instance_id] = result

    def predictions(self) -> Path:
        """SWE-bench's lines for its official harness, of everything there is so far."""
        path = self.folder / PREDICTIONS
        lines = (
            json.dumps({"instance_id": r.instance_id, "model_name_or_path": r.model, "model_patch": r.patch})
            for r in self.results.values()
        )
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def trajectory(self, instance_id: str) -> Path:
        """A new file's path: what a killed try left there is a torn trajectory of no result."""
        path = self.folder / "trajectories" / f"{instance_id.replace('/', '__')}.jsonl"
        path.unlink(missing_ok=True)
        return path


def read(path: Path) -> tuple[Result, ...]:
    """The results of a file, or of an eval's folder. SettingsError names a line that is none."""
    path = path / RESULTS if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(Result.model_validate_json(line))
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]["msg"]
                raise SettingsError(f"{path}, line {number}: no result of an eval ({first})") from error
    return tuple(found)


def _mended(path: Path) -> Sequence[Result]:
    """The results so far; a last line that a crash cut off is taken away, and its instance done again."""
    if not path.exists():
        return ()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))
    return read(path)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
