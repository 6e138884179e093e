"""A replay on this machine, from a file and a base, with nothing of it left behind."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from agent.recording import Recording
from worker import compose
from worker.bases import commit_directory
from worker.local import git_directory, head_commit
from worker.replay.run import Replay, Replayer
from worker.settings import Settings
from worker.stages.ports import Layer


def replay_file(settings: Settings, recording: Recording, base: Path | None, layer: Layer | None = None) -> Replay:
    """`base`: a git repository, a directory of files, or None for an empty workspace; it is only read."""
    with tempfile.TemporaryDirectory(prefix="devstral-fix-") as name:
        scratch = Path(name)
        repositories = compose.make_repositories(scratch, allow_file=True)
        sandbox = compose.make_sandbox(settings, scratch, repositories)
        if base is not None and (found := _repository(base, recording.base_commit)) is not None:
            source, commit = found
        else:
            source = scratch / "base.git"
            empty = scratch / "empty"
            empty.mkdir()
            commit = commit_directory(base or empty, source)
        git_dir = repositories.run_dir("replay", source)
        return Replayer(sandbox=sandbox, repositories=repositories).replay(recording, git_dir, commit, layer)


def _repository(base: Path, wanted: str | None) -> tuple[Path, str] | None:
    """(its objects' directory, the recorded commit where it has it, else its HEAD); None where it is none."""
    if not (base / ".git").exists() and not (base / "HEAD").exists():
        return None
    git_dir = git_directory(base)
    if wanted is not None:
        asked = ["git", "-C", str(base), "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode == 0:
            return git_dir, done.stdout.strip()
    return git_dir, head_commit(base)
