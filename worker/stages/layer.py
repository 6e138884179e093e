"""What a run's set-up means for its sandboxes: whether it needs one, and the layer that it made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from agent.protocols import SandboxLimits, SandboxSpec
from worker.errors import Transient
from worker.stages import setup_plan
from worker.stages.config import RepositoryConfig
from worker.stages.ports import Layer, Layers, Repositories

# What go builds doesn't fit the home directory of a sandbox.
ROOMIER = MappingProxyType({"GOCACHE": "/tmp/go-build"})  # noqa: S108 - inside


class LayerMissing(Transient):
    """The layer that a run was set up with is gone: it has to be made again."""


def needed(
    repositories: Repositories, git_dir: Path, commit: str, settings: RepositoryConfig
) -> setup_plan.Plan | None:
    """What has to run for a commit before anything is tried; None when nothing does."""
    return setup_plan.plan(
        settings,
        repositories.list_files(git_dir, commit),
        lambda path: repositories.read_file(git_dir, commit, path, max_bytes=4 << 20),
    )


@contextmanager
def layer_of(layers: Layers, key: str | None) -> Iterator[Layer | None]:
    """A run's layer while the context is open; None when it needs none. LayerMissing when it is gone."""
    if key is None:
        yield None
        return
    with layers.use(key) as layer:
        if layer is None:
            raise LayerMissing("the layer of its set-up is gone")
        yield layer


def spec(git_dir: Path, tree: str, limits: SandboxLimits, layer: Layer | None) -> SandboxSpec:
    """A workspace with what the set-up made."""
    if layer is None:
        return SandboxSpec(git_dir=git_dir, tree=tree, limits=limits, env=ROOMIER)
    env = {**ROOMIER, **layer.env}
    return SandboxSpec(git_dir=git_dir, tree=tree, limits=limits, mounts=layer.mounts, env=env, path=layer.path)
