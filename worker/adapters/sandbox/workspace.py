"""A workspace's files on the host: made from trusted objects before anything hostile runs, and removed after."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from worker.adapters.sandbox.scripts import EXCLUDED, GIT_DIR_CONFIG
from worker.errors import RepositoryRefused, SandboxUnavailable

_SECONDS = 300.0
_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
}


def object_dirs(git_dir: Path) -> list[Path]:
    """Every directory that holds objects of `git_dir`: its own, and those of its alternates. RepositoryRefused when
    there is none."""
    git_dir = git_dir.resolve()
    common = git_dir / "commondir"  # a linked work tree's objects are its repository's
    home = git_dir / common.read_text().strip() if common.is_file() else git_dir
    found: list[Path] = []
    waiting = [(home / "objects").resolve()]
    while waiting and len(found) < 16:
        objects = waiting.pop(0)
        if objects in found or not objects.is_dir():
            continue
        found.append(objects)
        alternates = objects / "info" / "alternates"
        if alternates.is_file():
            lines = [line for line in alternates.read_text().splitlines() if line and not line.startswith("#")]
            waiting += [(objects / line).resolve() for line in lines]
    if not found:
        raise RepositoryRefused(f"not a git repository: {git_dir}")
    return found


def object_format(oid: str) -> str:
    return "sha256" if len(oid) == 64 else "sha1"


class Files:
    """The host's side of one session, below `home`: `workspace/` (the agent's), `gitdir/` (trusted, never mounted
    writable). `uid` owns the workspace; None leaves it to the service's own user."""

    def __init__(self, home: Path, objects: Sequence[Path], uid: int | None, git: str = "git") -> None:
        self.workspace = home / "workspace"
        self.git_dir = home / "gitdir"
        self._uid = uid
        self._git = git
        self._env = {
            **_ENV,
            "GIT_DIR": str(self.git_dir),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(str(path) for path in objects),
        }

    def make_git_dir(self, object_format: str) -> None:
        """A repository of our own with no objects: the real one's configuration plays no part here."""
        for name in ("objects", "refs", "info"):
            (self.git_dir / name).mkdir(parents=True)
        (self.git_dir / "HEAD").write_text("ref: refs/heads/none\n")
        sha256 = object_format == "sha256"
        extension = "[extensions]\n\tobjectformat = sha256\n" if sha256 else ""
        (self.git_dir / "config").write_text(GIT_DIR_CONFIG.format(version=int(sha256), extension=extension))
        (self.git_dir / "info" / "exclude").write_text(EXCLUDED)
        run(["chmod", "-R", "a+rX", "--", str(self.git_dir)])

    def tree_of(self, treeish: str) -> str:
        """RepositoryRefused when there is no such tree or commit."""
        try:
            out = run([self._git, "rev-parse", "--verify", "--quiet", f"{treeish}^{{tree}}"], self._env)
        except subprocess.CalledProcessError as e:
            raise RepositoryRefused(f"there is no tree or commit {treeish[:80]!r}") from e
        return out.decode("ascii").strip()

    def check_out(self, tree: str) -> None:
        """Fill a workspace that isn't there yet. No filter driver is configured, so none runs; a submodule becomes
        an empty directory."""
        self.workspace.mkdir(mode=0o700)
        index = self.git_dir / "index.checkout"
        env = {**self._env, "GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(self.workspace)}
        try:
            run([self._git, "read-tree", tree], env)
        except subprocess.CalledProcessError as e:  # a path such as `.git/config`
            reason = e.stderr.decode("utf-8", "replace")[-300:]
            raise RepositoryRefused(f"git refuses to check out this tree: {reason}") from e
        try:
            run([self._git, "checkout-index", "--all", "--force", "--quiet"], env, cwd=self.workspace)
        except subprocess.CalledProcessError as e:
            reason = e.stderr.decode("utf-8", "replace")[-300:]
            raise SandboxUnavailable(f"the workspace could not be written: {reason}") from e
        finally:
            index.unlink(missing_ok=True)
        if self._uid is not None:
            run(["chown", "-hR", f"{self._uid}:{self._uid}", "--", str(self.workspace)])

    def keep_index(self, data: bytes) -> None:
        (self.git_dir / "index").write_bytes(data)
        (self.git_dir / "index").chmod(0o644)


def remove(path: Path) -> None:
    """Remove a tree that a stranger filled, with whatever modes, names and depth. Symbolic links aren't followed."""
    if not os.path.lexists(path):
        return
    try:
        root = os.geteuid() == 0
        run(["rm", "-rf", "--", str(path)], check=root)
        if not root and os.path.lexists(path):  # folders that their own owner may not enter
            run(["chmod", "-R", "u+rwX", "--", str(path)], check=False)
            run(["rm", "-rf", "--", str(path)])
    except subprocess.SubprocessError as e:
        raise SandboxUnavailable(f"a workspace could not be removed: {e}") from e


def run(argv: Sequence[str], env: dict[str, str] | None = None, *, cwd: Path = Path("/"), check: bool = True) -> bytes:
    """A trusted host program with nothing of the service's environment; its stdout."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_ENV if env is None else env,
        cwd=cwd,
        umask=0o022,
        timeout=_SECONDS,
        check=check,
    )
    return done.stdout
