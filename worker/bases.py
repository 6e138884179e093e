"""A base to work on, made of a directory: a bare repository with one commit of its files. Whatever the directory is, it
is only read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from worker.errors import Permanent

_DATE = "1700000000 +0000"  # the same files give the same commit
_WHO = ("-c", "user.name=base", "-c", "user.email=base@invalid", "-c", "commit.gpgsign=false")


def commit_directory(source: Path, git_dir: Path) -> str:
    """Commit all files below `source` (but for a `.git` of its own), also ignored ones: what was released is what is
    there. `git_dir` is made, if absent. Returns the commit. Raises Permanent."""
    if not (git_dir / "HEAD").exists():
        git_dir.mkdir(parents=True, exist_ok=True)
        _git(git_dir, "init", "--quiet", "--bare", "--template=", "--initial-branch=main")
    tree = ("--work-tree", str(source.absolute()))
    _git(git_dir, *tree, "add", "--all", "--force", ".")
    _git(git_dir, *_WHO, *tree, "commit", "--quiet", "--allow-empty", "--no-verify", "-m", "base")
    return _git(git_dir, "rev-parse", "HEAD").strip()


def _git(git_dir: Path, *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_DATE": _DATE,
        "GIT_COMMITTER_DATE": _DATE,
    }
    settings = ("-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null", "-c", "core.bare=false")
    done = subprocess.run(
        ["git", "--git-dir", str(git_dir), *settings, *arguments],
        env=env,
        capture_output=True,
        check=False,
        timeout=300,
    )
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()[:500]
        raise Permanent(f"git {arguments[-1]}: the base can't be made: {words}")
    return done.stdout.decode("utf-8", "replace")
