"""A small repository and real sandboxes around it, for the tests of sessions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import ExecResult, Isolation, SandboxLimits, SandboxSpec, Session
from worker.adapters.repos import GitRepositories
from worker.adapters.sandbox import BwrapSandbox

FILES = {
    "app.py": "def add(a, b):\n    return a + b\n",
    "run.sh": "#!/bin/sh\necho hi\n",
    "docs/guide.txt": "read me\n",
    ".gitignore": "build/\n",
}


def git(folder: Path, *args: str, stdin: bytes = b"") -> str:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    options = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", "-C", str(folder), *options, *args], env=env, input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def make_source(folder: Path, files: dict[str, str] | None = None) -> Path:
    """A person's repository with one commit on `main`."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for name, content in (FILES if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    return folder


@dataclass
class Place:
    """Where a backend works in a test."""

    repos: GitRepositories
    sandbox: BwrapSandbox
    git_dir: Path
    commit: str

    @property
    def tree(self) -> str:
        return git(self.git_dir, "rev-parse", f"{self.commit}^{{tree}}")

    @contextmanager
    def session(self, **limits: int) -> Iterator[Session]:
        session = self.sandbox.open(
            SandboxSpec(git_dir=self.git_dir, tree=self.commit, limits=SandboxLimits(**limits))  # type: ignore[arg-type]
        )
        try:
            yield session
        finally:
            session.close()


def place(
    folder: Path, files: dict[str, str] | None = None, *, isolation: Isolation = Isolation.BASIC, **more
) -> Place:
    source = make_source(folder / "source", files)
    repos = GitRepositories(folder / "git", allow_file=True)
    mirror = repos.fetch("owner/name", f"file://{source}", None)
    git_dir = repos.run_dir("run-1", mirror)
    sandbox = BwrapSandbox(folder / "sandboxes", repos, isolation=isolation, **more)
    return Place(repos, sandbox, git_dir, repos.resolve(mirror, "main"))


def sh(session: Session, script: str, *, timeout: float = 30.0, **more) -> ExecResult:
    return session.exec(["sh", "-c", script], timeout=timeout, **more)


def python(session: Session, code: str, *args: str, timeout: float = 30.0) -> str:
    """What `code` printed inside; the code decides what a success is."""
    done = session.exec(["python3", "-I", "-c", code, *args], timeout=timeout)
    assert done.returncode == 0, done
    return done.stdout.text.strip()
