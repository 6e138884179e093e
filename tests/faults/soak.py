"""A soak."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.faults.table import Result


def soak(root: Path, *, runs: int, seconds: float, seed: int | None) -> Iterator[Result]:
    yield from ()
