"""The suite: bugs that were released, and their released fixes. Everything but the problem statements is derived from
two source distributions: the base repository, the gold patch (the files of the fix) and the test patch."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.types import Frozen
from tests.eval.sdists import CACHE, Sdist, layer
from worker.adapters.repos import GitRepositories
from worker.bases import commit_directory
from worker.evals.instances import Instance

HERE = Path(__file__).parent


class Entry(Frozen):
    """One of instances.toml."""

    id: str
    name: str
    buggy: str
    buggy_sha256: str
    fixed: str
    fixed_sha256: str
    fix: tuple[str, ...]
    tests: tuple[str, ...]
    fail_to_pass: tuple[str, ...]
    packages: tuple[str, ...]
    problem: str


def entries() -> tuple[Entry, ...]:
    data = tomllib.loads((HERE / "instances.toml").read_text(encoding="utf-8"))
    return tuple(Entry.model_validate({"packages": data["packages"]} | item) for item in data["instance"])


@dataclass(frozen=True)
class Built:
    instance: Instance
    git_dir: Path


def build(entry: Entry, repositories: GitRepositories, scratch: Path) -> Built:
    """Fetch both distributions and derive the instance; it has no PASS_TO_PASS yet, which takes a run."""
    buggy = Sdist(entry.name, entry.buggy, entry.buggy_sha256).folder()
    fixed = Sdist(entry.name, entry.fixed, entry.fixed_sha256).folder()
    base = CACHE / "bases" / f"{entry.name}-{entry.buggy}.git"
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base.parent) as made:
            commit_directory(buggy, Path(made) / "git")
            (Path(made) / "git").rename(base)
    commit = subprocess.run(
        ["git", "-C", str(base), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    git_dir = repositories.run_dir(entry.id, base)

    def derived(paths: Sequence[str]) -> str:
        """The diff that takes just these files from the fixed distribution."""
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            work = Path(name) / "files"
            shutil.copytree(buggy, work)
            for path in paths:
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fixed / path, work / path)
            other = Path(name) / "git"
            commit_directory(work, other)
            tree = subprocess.run(
                ["git", "-C", str(other), "rev-parse", "HEAD^{tree}"], capture_output=True, text=True, check=True
            ).stdout.strip()
            pack = subprocess.run(
                ["git", "-C", str(other), "pack-objects", "--revs", "--stdout", "--quiet"],
                input=tree.encode(), capture_output=True, check=True,
            ).stdout  # fmt: skip
            repositories.import_pack(git_dir, pack)
            return repositories.patch(git_dir, commit, tree).diff

    made: dict[str, Any] = {
        "instance_id": entry.id,
        "repo": str(base),
        "base_commit": commit,
        "problem_statement": entry.problem.strip(),
        "FAIL_TO_PASS": list(entry.fail_to_pass),
        "PASS_TO_PASS": [],
        "test_patch": derived(entry.tests),
        "patch": derived(entry.fix),
        "packages": str(layer(entry.packages).mounts[0].source),
    }
    return Built(Instance.model_validate(made), git_dir)


def line(instance: Instance) -> str:
    """As SWE-bench has it: one JSON object a line, the lists as JSON text."""
    data = instance.model_dump(mode="json", by_alias=True)
    for name in ("FAIL_TO_PASS", "PASS_TO_PASS"):
        data[name] = json.dumps(data[name])
    return json.dumps(data) + "\n"
