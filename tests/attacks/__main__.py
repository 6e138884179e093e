"""`make test-attacks`: every attack as the user who started it and, when that is root, as a plain user, too.

Prints what happened, then the table of attacks, the table of removed defences, the reasons of skips and the totals.
`--short` is what CI runs: the plain user gets what depends on the user.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import plain_user
from worker.adapters.sandbox import delegation
from worker.errors import IsolationMissing

FOLDER = Path(__file__).parent
PARALLEL = ("-q", "-n", "2", "--dist=loadfile", "-p", "no:cacheprovider")
# The filter and host-side git are the same programs for everybody.
SHORT = "not test_git_on_host and not test_kernel and not test_calls and not malformed and not flood"
SECONDS = 900


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("rest", nargs="*", help="for pytest, after --")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    broken = 0
    with tempfile.TemporaryDirectory(prefix="devstral-fix-attacks-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        rows = folder / "rows"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *PARALLEL, f"--rows={rows}", str(FOLDER), *arguments.rest],
            check=False,
            timeout=SECONDS,
        )
        broken += done.returncode not in {0, 1}
        found += read(rows)
        if os.geteuid() == 0:
            broken += not as_plain_user(folder, arguments.rest, short=arguments.short, found=found)
    show(found)
    outcomes = Counter(report["outcome"] for report in found)
    failed = outcomes["failed"] + broken
    print(f"{outcomes['passed']} passed, {failed} failed, {outcomes['skipped']} skipped")
    return 1 if failed else 0


def as_plain_user(folder: Path, rest: Sequence[str], *, short: bool, found: list[dict[str, Any]]) -> bool:
    """Whether pytest ran to its end; its reports are added to `found`."""
    print("\nas a plain user, in control groups that root delegated:", flush=True)
    home = folder / "home"
    home.mkdir()
    rows = home / "rows"
    words = [*PARALLEL, f"--rows={rows}", "{tests}/attacks", *(("-k", SHORT) if short else ()), *rest]
    with (
        plain_user.delegate(f"devstral-fix-attacks-{os.getpid()}") as delegated,
        plain_user.command(words, home, delegated=delegated) as process,
    ):
        out, _ = process.communicate(timeout=SECONDS)
    print(out.decode("utf-8", "replace"))
    found += read(rows)
    return process.returncode in {0, 1}


def groups() -> list[str]:
    """Which control groups the limits of level strict were tried with, and what that leaves unverified."""
    try:
        base = delegation.find().base
    except IsolationMissing as e:
        return [f"control groups: none here, so the limits of level strict are unverified: {e}"]
    if base.version == 2:
        return ["control groups: v2; limits of v1 unverified here: this kernel binds its controllers to v2"]
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    used = f"v1 ({', '.join(key for key in base.folders)})"
    if not unified:
        return [f"control groups: {used}", "limits of v2 unverified here: it is not mounted"]
    offered = " ".join((unified[0] / "cgroup.controllers").read_text().split()) or "none"
    return [
        f"control groups: {used} on a hybrid machine; v2 at {unified[0]} offers: {offered}",
        "limits of v2 unverified here: this kernel binds its controllers to v1",
    ]


def read(rows: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows.read_text().splitlines() if line] if rows.exists() else []


def show(found: Sequence[dict[str, Any]]) -> None:
    failed = {report["test"] for report in found if report["outcome"] == "failed"}
    rows = [{**row, "red": report["test"] in failed} for report in found for row in report["rows"]]
    rows.sort(key=lambda row: (int(row["attack"].split()[0]), row["attack"], row["level"], row["user"]))
    attacks = [row for row in rows if not row["without"]]
    removed = [row for row in rows if row["without"]]
    print("\nAttacks: what each got inside, and what the same got outside (control)")
    table(["attack", "level", "user", "outcome", "control"], attacks)
    print("\nDefences removed, one at a time: what the same attack gets then (`open`: its row is red)")
    table(["without", "attack", "level", "user", "outcome"], removed)
    print()
    for line in groups():
        print(line)
    reasons = Counter(report["reason"] for report in found if report["outcome"] == "skipped")
    for reason, count in reasons.items():
        print(f"skipped {count}: {reason}")
    for report in found:
        if report["outcome"] == "failed":
            print(f"failed: {report['test']}")


def table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Rows that differ in level or user alone share a line."""
    merged: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in rows:
        key = tuple(str(row[name]) + (" RED" if row["red"] and name == "outcome" else "") for name in columns)
        key = tuple(" ".join(cell.split()) for cell in key)
        where = {name: key[columns.index(name)] for name in ("level", "user")}
        rest = tuple(cell for name, cell in zip(columns, key, strict=True) if name not in where)
        kept = merged.setdefault(rest, {"level": [], "user": []})
        for name, value in where.items():
            if value not in kept[name]:
                kept[name].append(value)
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for rest, where in merged.items():
        cells = iter(rest)
        line = [", ".join(where[name]) if name in where else next(cells) for name in columns]
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")


if __name__ == "__main__":
    sys.exit(main())
