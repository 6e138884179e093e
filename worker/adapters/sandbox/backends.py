"""Which sandbox backends this machine can run, found by running each once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import Sandbox
from worker.adapters.sandbox.bwrap import BwrapSandbox
from worker.adapters.sandbox.container import ContainerSandbox
from worker.errors import BadPatch, IsolationMissing, SandboxUnavailable

Make = Callable[[Path], Sandbox]


@dataclass(frozen=True)
class Backend:
    """`reason` says what it offers, or what keeps it from working; `experimental` ones are never chosen unasked."""

    name: str
    usable: bool
    reason: str
    experimental: bool = False


def available(image: str | None = None) -> list[Backend]:
    """Every backend, each tried by starting one sandbox in a throw-away folder (a few seconds in all). `image` is for
    docker, which has no other way to a root directory."""
    return [
        _try("bwrap", lambda root: BwrapSandbox(root, _Nothing())),
        _try("podman", lambda root: ContainerSandbox(root, _Nothing(), cli="podman")),
        _try("docker", lambda root: ContainerSandbox(root, _Nothing(), cli="docker", image=image)),
        _try(
            "runsc",
            lambda root: ContainerSandbox(root, _Nothing(), runtime="runsc", image=image),
            needs="runsc",
        ),
    ]


def _try(name: str, make: Make, *, needs: str | None = None) -> Backend:
    experimental = name == "runsc"
    if needs is not None and shutil.which(needs) is None:
        return Backend(name, usable=False, reason=f"there is no `{needs}` program", experimental=experimental)
    with tempfile.TemporaryDirectory(prefix="devstral-fix-") as folder:
        Path(folder).chmod(0o711)
        try:
            made = make(Path(folder))
        except (IsolationMissing, SandboxUnavailable) as e:
            return Backend(name, usable=False, reason=str(e), experimental=experimental)
        offers = f"isolation={made.isolation}; {', '.join(sorted(made.capabilities))}"
        return Backend(name, usable=True, reason=offers, experimental=experimental)


class _Nothing:
    """No session is opened, so nothing comes out."""

    def import_pack(self, git_dir: Path, pack: bytes) -> None:  # noqa: ARG002
        raise BadPatch("nothing is stored here")

    def has_tree(self, git_dir: Path, tree: str) -> bool:  # noqa: ARG002
        return False
