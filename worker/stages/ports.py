"""What the stages of a run (intake, set-up, pursue, verify, deliver) need of the outside besides GitHub: host-side git,
layers that a set-up made, and a set-up's way out to the network.

Adapters raise `worker.errors` only: `RepositoryUnavailable`/`RepositoryRefused`, `BadPatch`. Every id that comes back
from git is a full lower-case hex object id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import Field, SecretStr

from agent.outcome import Patch
from agent.protocols import Mount
from agent.types import Frozen


class Repositories(Protocol):
    """Host-side git: mirrors, and object-level work in trusted bare repositories. Never a work tree that an agent
    could write to. One per process; safe to use from several threads and processes (file locks)."""

    def fetch(self, repository: str, url: str, token: SecretStr | None) -> Path:
        """Create or update the bare mirror of `repository` (owner/name) and return its directory."""

    def mirror(self, repository: str) -> Path:
        """The directory of a mirror fetched before; RepositoryUnavailable when there is none here."""

    def resolve(self, git_dir: Path, ref: str) -> str:
        """The commit id of `refs/heads/<ref>`, or of a full commit id. RepositoryRefused when unknown."""

    def run_dir(self, run_id: str, mirror: Path) -> Path:
        """A bare repository for one run, made if absent, whose alternates are the mirror's objects: what a run
        writes never enters the mirror. Mirrors may be anywhere, also a person's own `.git` directory."""

    def drop_run_dir(self, run_id: str) -> None: ...

    def run_ids(self) -> tuple[str, ...]:
        """The runs that have such a repository on this machine."""

    def read_file(self, git_dir: Path, tree: str, path: str, *, max_bytes: int = 65_536) -> bytes | None:
        """A regular file's content at a commit or tree; None when absent, not a regular file, or larger."""

    def list_files(self, git_dir: Path, tree: str) -> tuple[str, ...]:
        """Paths of all regular files of a commit or tree, sorted; paths that are not UTF-8 are left out."""

    def holds(self, git_dir: Path, tree: str, base_commit: str) -> bool:
        """Whether all of a tree is here: itself, and whatever below it is not the base's."""

    def subjects(self, git_dir: Path, commit: str, count: int) -> tuple[str, ...]:
        """The first lines of the messages of a commit and of those before it, newest first, at most `count`."""

    def merge_base(self, git_dir: Path, one: str, other: str) -> str:
        """The newest commit that both have; RepositoryRefused when they have none."""

    def patch(self, git_dir: Path, base_commit: str, tree: str) -> Patch: ...

    def overlay(self, git_dir: Path, base: str, tree: str, paths: Sequence[str]) -> str:
        """The tree that is `base` with just `paths` taken from `tree` (absent there means removed)."""

    def apply(self, git_dir: Path, base_commit: str, diff: str) -> str:
        """The tree that `diff` makes of `base_commit`. BadPatch when it does not apply."""

    def commit(
        self, git_dir: Path, *, tree: str, parent: str, message: str, author: str, email: str, date: datetime
    ) -> str:
        """A commit object; the same arguments give the same id."""

    def remote_branch(self, url: str, branch: str, token: SecretStr | None) -> str | None:
        """The commit a remote branch is at, or None."""

    def push(
        self, git_dir: Path, *, url: str, commit: str, branch: str, expected: str | None, token: SecretStr | None
    ) -> None:
        """Set the remote branch to `commit` if it is still at `expected` (None: must not exist).
        RepositoryRefused when it moved or the server refuses."""


class Blocked(Frozen):
    """Something a set-up wanted from the network and did not get. `host` is a stranger's word, but a host's name;
    `allowed`: it could have had it, had the host answered."""

    host: str
    port: int
    reason: str
    allowed: bool = False


class WayOut(Protocol):
    """One set-up's way to the network, open while its context is."""

    @property
    def mounts(self) -> tuple[Mount, ...]: ...

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it has to be run inside a sandbox that has `mounts`, so that it finds the proxy."""

    @property
    def env(self) -> Mapping[str, str]:
        """Where the package clients inside are to look for their indexes: no credentials."""

    @property
    def blocked(self) -> tuple[Blocked, ...]: ...


class Egress(Protocol):
    @property
    def policy(self) -> str:
        """What may be reached, as text: part of a layer's key."""

    @property
    def refusal(self) -> str | None:
        """Why no set-up may use the network here, for people; None when one may."""

    def open(self) -> AbstractContextManager[WayOut]: ...


class Layer(Frozen):
    """What a set-up made, frozen: shown read-only to every later sandbox of the same key."""

    mounts: tuple[Mount, ...]
    env: Mapping[str, str]
    path: tuple[str, ...]


class FailedSetUp(Frozen):
    """Why there is no layer, for people."""

    reason: str
    log: str = Field(default="", description="what was blocked and printed")


class LayerDraft(Protocol):
    """A layer in the making: nobody else sees it, and it is gone unless kept."""

    @property
    def mount(self) -> Mount:
        """Writable, at the place where the layer will be."""

    @property
    def suspect(self) -> bool:
        """Whether it seems to hold more than a layer may, or the disk is nearly full: asked all the time while it is
        being filled, so quick, and now and then mistaken for what others do to the disk."""

    @property
    def too_large(self) -> bool:
        """Whether it does hold more; of one that nobody writes to."""

    def keep(self) -> None:
        """Freeze it, and let others find it. worker.errors.Permanent when it is larger than a layer may be."""

    def fail(self, failed: FailedSetUp) -> None:
        """Remember for a while that this one can't be made."""


class Layers(Protocol):
    """Set-up layers of this machine, by key. Safe to use from several threads and processes (file locks)."""

    def key(self, parts: Sequence[str]) -> str:
        """The key of the layer that `parts` determine on a machine like this one."""

    def use(self, key: str) -> AbstractContextManager[Layer | None]:
        """The layer, which stays while the context is open; None when there is none."""

    def failed(self, key: str) -> FailedSetUp | None:
        """How making it ended a short while ago; None when it did not fail, or may be tried again."""

    def forget_failures(self) -> int:
        """Every failed one may be tried again; how many there were."""

    def draft(self, key: str) -> AbstractContextManager[LayerDraft | None]:
        """Begin to make a layer; None when somebody else is at it now."""
