"""Places like those of `sandboxes` with container backends; a backend that can't run here skips with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sandboxes import Place, place
from worker.adapters.sandbox import ContainerSandbox
from worker.errors import IsolationMissing

SERIAL = [pytest.mark.serial, pytest.mark.xdist_group("containers")]  # engines share the machine's state


def podman_place(folder: Path) -> Place:
    return _place(folder, "podman", cli="podman")


def docker_place(folder: Path) -> Place:
    """With the image that DEVSTRAL_FIX_TEST_IMAGE names, which has sh, coreutils, git and python3."""
    return _place(folder, "docker", cli="docker", image=os.environ.get("DEVSTRAL_FIX_TEST_IMAGE"))


def runsc_place(folder: Path) -> Place:
    if shutil.which("runsc") is None:
        pytest.skip("runsc: there is no `runsc` program")
    return _place(folder, "runsc", cli="podman", runtime="runsc")


CONTAINERS = {"podman": podman_place, "docker": docker_place, "runsc": runsc_place}


def with_containers(names: Iterable[str]) -> list:
    """Parameters of a fixture: `names` as they are, and those of CONTAINERS one at a time."""
    return [*names, *(pytest.param(name, marks=SERIAL) for name in CONTAINERS)]


def _place(folder: Path, name: str, **options) -> Place:
    made = place(folder)
    try:
        return replace(made, sandbox=ContainerSandbox(folder / "containers", made.repos, **options))
    except IsolationMissing as e:
        pytest.skip(f"{name}: {e}")
