"""A benchmark's record: a list of figures as JSON, and the page made from it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value. `goal` is in the same unit, and None where nothing was asked."""

    figure: str
    value: float
    unit: str
    goal: float | None
    met: bool | None
    command: str
    machine: str
    date: str
    bound: Literal["≤", "≥"] = "≤"  #: what the value has to be, beside the goal


def machine() -> str:
    """What was measured on, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def figure(name: str, value: float, unit: str, *, goal: float | None, command: str) -> Figure:
    return Figure(
        figure=name,
        value=round(value, 2),
        unit=unit,
        goal=goal,
        met=None if goal is None else value <= goal,
        command=command,
        machine=machine(),
        date=datetime.now(UTC).date().isoformat(),
    )


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least `q` of 1 of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(q * len(ordered) + 0.5) - 1))]


def table(figures: Sequence[Figure]) -> str:
    """The figures as Markdown."""
    rows = ["| figure | value | goal | met |", "|---|---:|---:|---|"]
    for f in figures:
        goal = "" if f.goal is None else f"{f.bound} {f.goal:g} {f.unit}"
        met = "" if f.met is None else ("yes" if f.met else "**no**")
        rows.append(f"| {f.figure} | {f.value:g} {f.unit} | {goal} | {met} |")
    return "\n".join(rows)


def write(name: str, figures: Sequence[Figure], *, remarks: Sequence[str] = ()) -> None:
    """Write NAME.json and the page NAME.md; every missed goal gets a sentence among `remarks`."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    data = json.dumps([asdict(f) for f in figures], indent=2)
    (DIRECTORY / f"{name}.json").write_text(data + "\n", encoding="utf-8")
    missed = [f"Missed: {f.figure}, {f.value:g} {f.unit} instead of {f.goal:g}." for f in figures if f.met is False]
    about = f"Measured {figures[0].date} on {figures[0].machine} by `{figures[0].command}`."
    parts = [f"# {name}", about, table(figures), *missed, *remarks]
    (DIRECTORY / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
