"""Mirrors, per-run repositories and pushes: the places host-side git works in, and the servers it talks to."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from worker.adapters.repos.git import Git, GitFailed
from worker.adapters.repos.names import branch_ref, is_object_id, object_id, repository_name, run_name
from worker.adapters.repos.objects import ObjectStore
from worker.errors import RepositoryRefused, RepositoryUnavailable

log = logging.getLogger(__name__)

MOST_PACKS = 20
MOST_LOOSE = 7000


class GitRepositories(ObjectStore):
    """The `Repositories` port on disk, below `root`: `mirrors/`, `runs/`, `locks/`. Nothing is made until first use.

    `allow_file` permits file:// addresses (local use and tests). Times are seconds per git call.
    """

    def __init__(
        self,
        root: Path,
        *,
        allow_file: bool = False,
        timeout: float = 120.0,
        network_timeout: float = 600.0,
        max_pack_bytes: int = 64 << 20,
        signing_key: Path | None = None,
    ) -> None:
        git = Git(allow_file=allow_file, timeout=timeout, network_timeout=network_timeout)
        super().__init__(git, max_pack_bytes=max_pack_bytes, signing_key=signing_key)
        self._root = root.absolute()

    def fetch(self, repository: str, url: str, token: SecretStr | None) -> Path:
        path = self._mirror_path(repository)
        self._git.check_url(url)
        with self._locked(f"mirror-{repository.lower().replace('/', '--')}"):
            self._init(path)
            _drop_stale_files(path)
            # Tags that lead into what is fetched come along (git's default); others, such as a tag of a tree, don't.
            args = ("--prune", "--no-recurse-submodules", "--no-write-fetch-head", "--quiet")
            self._git.network(path, url, token, "fetch", *args, url, "+refs/heads/*:refs/heads/*")
            (path / "fetched").touch()  # an interrupted first fetch leaves no mirror that looks whole
            self._tidy(path)
        return path

    def mirror(self, repository: str) -> Path:
        path = self._mirror_path(repository)
        if not (path / "fetched").exists():
            raise RepositoryUnavailable(f"there is no mirror of {repository} here")
        return path

    def resolve(self, git_dir: Path, ref: str) -> str:
        name = ref if is_object_id(ref) else branch_ref(ref)
        try:
            out = self._git.run(git_dir, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except GitFailed as e:
            raise RepositoryRefused(f"there is no branch or commit {ref!r}") from e
        return object_id(out.decode("ascii", "replace").strip())

    def run_dir(self, run_id: str, mirror: Path) -> Path:
        path = self._root / "runs" / f"{run_name(run_id)}.git"
        with self._locked(f"run-{run_id}"):
            # Asked of git: the objects of a linked work tree's `.git` are somewhere else.
            try:
                found = self._git.run(mirror.absolute(), "rev-parse", "--git-path", "objects").decode().strip()
                kind = self._git.run(mirror.absolute(), "rev-parse", "--show-object-format").decode().strip()
            except GitFailed as e:
                raise RepositoryRefused(f"not a git repository: {mirror}: {e}") from e
            self._init(path, kind)
            alternates = path / "objects" / "info" / "alternates"
            alternates.parent.mkdir(exist_ok=True)
            alternates.write_text(f"{Path('/', found)}\n")
            _keep_everything(path)
        return path

    def drop_run_dir(self, run_id: str) -> None:
        shutil.rmtree(self._root / "runs" / f"{run_name(run_id)}.git", ignore_errors=True)
        (self._root / "locks" / f"run-{run_id}.lock").unlink(missing_ok=True)

    def run_ids(self) -> tuple[str, ...]:
        return tuple(sorted(path.name.removesuffix(".git") for path in (self._root / "runs").glob("*.git")))

    def remote_branch(self, url: str, branch: str, token: SecretStr | None) -> str | None:
        ref = branch_ref(branch)
        out = self._git.network(None, url, token, "ls-remote", "--quiet", "--", url, ref).decode("utf-8", "replace")
        # git matches the pattern against the tail of every ref: only the exact one counts.
        found = [line.split("\t")[0] for line in out.splitlines() if line.split("\t")[1:] == [ref]]
        return object_id(found[0]) if found else None

    def push(
        self, git_dir: Path, *, url: str, commit: str, branch: str, expected: str | None, token: SecretStr | None
    ) -> None:
        ref = branch_ref(branch)
        lease = f"--force-with-lease={ref}:{'' if expected is None else object_id(expected)}"
        args = ("--no-verify", "--no-signed", "--recurse-submodules=no", "--no-follow-tags", lease)
        self._git.network(git_dir, url, token, "push", *args, "--", url, f"{object_id(commit)}:{ref}")

    def _tidy(self, path: Path) -> None:
        """Under the mirror's lock: fewer packs once there are many. No object is ever dropped: a run may still be at
        work on a commit that no branch leads to any more, and reads it through its alternates."""
        objects = path / "objects"
        loose = sum(1 for _ in (objects / "17").glob("*")) * 256  # as git itself estimates
        if len(list((objects / "pack").glob("*.pack"))) <= MOST_PACKS and loose <= MOST_LOOSE:
            return
        try:
            self._git.run(path, "repack", "--geometric=2", "-d", "--quiet")
            self._git.run(path, "pack-refs", "--all")
        except (GitFailed, RepositoryUnavailable) as e:  # the mirror is whole without it; the next fetch tries again
            log.warning("mirror_not_tidied", extra={"mirror": path.name, "why": str(e)})

    def _mirror_path(self, repository: str) -> Path:
        return self._root / "mirrors" / f"{repository_name(repository).lower()}.git"

    def _init(self, path: Path, object_format: str = "sha1") -> None:
        if (path / "HEAD").exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if not re.fullmatch(r"sha1|sha256", object_format):
            raise RepositoryRefused(f"unknown object format {object_format!r}")
        self._git.run(None, "init", "--bare", "--quiet", "--template=", f"--object-format={object_format}", str(path))

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One holder among all threads and processes; the kernel lets go when a holder dies."""
        folder = self._root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _keep_everything(path: Path) -> None:
    """No ref leads to the trees of a run's steps, and a run may go on from them days later: whoever tidies up here by
    hand, with a plain `git gc`, must not lose them."""
    config = path / "config"
    text = config.read_text()
    if "pruneExpire" not in text:
        config.write_text(f"{text}[gc]\n\tauto = 0\n\tpruneExpire = never\n")


def _drop_stale_files(path: Path) -> None:
    """Only the holder of our own lock writes here: git's lock files and unfinished packs are what a killed git left."""
    packs = path / "objects" / "pack"
    unfinished = (*packs.glob("tmp_*"), *packs.glob(".tmp-*"))
    for stale in (*path.glob("*.lock"), *(path / "refs").rglob("*.lock"), *unfinished):
        stale.unlink(missing_ok=True)
