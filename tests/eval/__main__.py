"""`make eval-check`: the suite proves itself in our sandbox, and recorded trajectories are replayed where a folder of
them is given. Fetches from PyPI through pip; the sandboxes have no network."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.imports import NotRecorded, load
from agent.protocols import Isolation
from agent.recording import Recording
from tests.eval import suite
from tests.eval.sdists import CACHE, NotFetched, Sdist, layer
from worker import compose
from worker.errors import ServiceError
from worker.evals.scoring import Scorer
from worker.replay.local import replay_file
from worker.replay.run import indexed
from worker.settings import Settings
from worker.table import aligned


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make eval-check", description=__doc__)
    parser.add_argument("--trajectories", type=Path, help="a folder of recordings, to replay all of them")
    parser.add_argument("--only", default="", help="part of an instance's or a recording's name")
    options = parser.parse_args(argv)
    settings = Settings(isolation=Isolation.BASIC, sandbox="bwrap", tools=())
    bad = prove(settings, options.only)
    if options.trajectories is None:
        print("\nNo recorded trajectory was replayed: TRAJECTORIES=DIR names a folder of them.")
    else:
        bad += replays(settings, options.trajectories, options.only)
    print(f"\n{'failed: ' + ', '.join(bad) if bad else 'all as it should be'}")
    return 1 if bad else 0


def prove(settings: Settings, only: str) -> list[str]:
    """Each instance twice, with nothing and with the gold patch. Returns the names of those that fail."""
    rows: list[list[str]] = []
    lines: list[str] = []
    bad = []
    with tempfile.TemporaryDirectory(prefix="devstral-fix-") as name:
        scratch = Path(name)
        repositories = compose.make_repositories(scratch, allow_file=True)
        scorer = Scorer(sandbox=compose.make_sandbox(settings, scratch, repositories), repositories=repositories)
        for entry in suite.entries():
            if only not in entry.id:
                continue
            began = time.monotonic()
            try:
                built = suite.build(entry, repositories, scratch)
                empty = scorer.outcomes(built.instance, built.git_dir, "")
                gold = scorer.outcomes(built.instance, built.git_dir, built.instance.patch)
            except (NotFetched, ServiceError) as error:
                bad.append(entry.id)
                rows.append(
                    [entry.id, f"{entry.name} {entry.buggy} → {entry.fixed}", "error", str(error)[:80], "", "", ""]
                )
                continue
            keep = sorted(t for t, how in gold.items() if how == "passed" == empty.get(t))
            instance = built.instance.model_copy(update={"pass_to_pass": tuple(keep)})
            solved = all(gold.get(test) == "passed" for test in instance.fail_to_pass)
            unsolved = all(empty.get(test) != "passed" for test in instance.fail_to_pass)
            if not (solved and unsolved):
                bad.append(entry.id)
            lines.append(suite.line(instance))
            rows.append([
                entry.id, f"{entry.name} {entry.buggy} → {entry.fixed}", "resolved" if solved else "NOT resolved",
                "not resolved" if unsolved else "RESOLVED", str(len(instance.fail_to_pass)), str(len(keep)),
                f"{time.monotonic() - began:.1f}",
            ])  # fmt: skip
    head = ["instance", "bug → fix", "gold", "empty", "fail→pass", "pass→pass", "seconds"]
    print("\n".join(aligned(head, rows, left=4)))
    if not only and not bad:
        target = CACHE / "instances.jsonl"
        target.write_text("".join(lines), encoding="utf-8")
        print(
            f"\n{len(lines)} instances of {len({e.name for e in suite.entries()})} projects: {os.path.relpath(target)}"
        )
    return bad


def replays(settings: Settings, folder: Path, only: str) -> list[str]:
    rows = []
    bad = []
    for path, recording in _recordings(folder):
        name = str(path.relative_to(folder))
        if only not in name:
            continue
        base = _base(recording)
        if base is None and not _from_nothing(recording):
            rows.append([name, str(len(recording.steps)), "imported; no base is known", *[""] * 7])
            continue
        source = None if base is None else Sdist(base["name"], base["version"], base["sha256"]).folder()
        done = replay_file(settings, recording, source, layer(base["packages"] if base else ()))
        kinds = done.kinds()
        if done.ours:
            bad.append(name)
        exact = [blob.base for blob in done.blobs if blob.base is not None]
        rows.append([
            name, str(len(recording.steps)), "empty" if base is None else f"{base['name']} {base['version']}",
            "" if not exact else "exact" if all(exact) else "differs",
            str(sum(step.how == "same" for step in done.steps)),
            *(str(kinds[kind]) for kind in ("environment", "time", "order")), str(done.ours),
            done.stopped or done.patch,
        ])  # fmt: skip
    head = ["recording", "steps", "base", "its files", "same", "environment", "time", "order", "ours", "patch"]
    print("\nReplays of recordings; no model ran.")
    print("\n".join(aligned(head, rows)))
    return bad or ([] if rows else ["there is no recording in the folder"])


def _recordings(folder: Path) -> Iterator[tuple[Path, Recording]]:
    """Every file whose shape is known; a call log's result is read with its log."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            for recording in load(path):
                yield path, recording
        except NotRecorded:
            continue


def _base(recording: Recording) -> dict | None:
    known = tomllib.loads((Path(__file__).parent / "bases.toml").read_text(encoding="utf-8"))["base"]
    names = {recording.base_commit, recording.instance_id, *(old for _, old, _ in indexed(recording.patch or ""))}
    return next((base for base in known if names & set(base["for"])), None)


def _from_nothing(recording: Recording) -> bool:
    """Whether it needs no base: it left no patch, or one of new files alone."""
    return all(not old.strip("0") for _, old, _ in indexed(recording.patch or ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
