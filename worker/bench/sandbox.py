"""`make bench-sandbox`: what a sandbox costs over a bare process, and what workspaces and snapshots cost."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import ExecStatus, Isolation, SandboxSpec
from worker.adapters.repos import GitRepositories
from worker.adapters.sandbox import BwrapSandbox
from worker.bench import records, sandbox_others
from worker.bench.records import Figure, figure
from worker.errors import IsolationMissing

COMMAND = "make bench-sandbox"
FILES, CHANGES = 10_000, 3
LARGE_FILES, LARGE_BYTES = 2_000, 100_000  # 200 MB that no compression shrinks
AT_ONCE = 64


@dataclass
class Bench:
    """One level's sandboxes below `root`."""

    root: Path
    level: Isolation
    repos: GitRepositories
    sandbox: BwrapSandbox

    def figure(self, name: str, value: float, unit: str = "ms", *, goal: float | None = None) -> Figure:
        return figure(f"{self.level.value}: {name}", value, unit, goal=goal, command=COMMAND)

    def repository(self, name: str, blobs: Iterator[tuple[str, bytes]]) -> tuple[SandboxSpec, Path]:
        """A mirrored repository with one commit of `blobs`: a spec for it, and its own objects."""
        source = self.root / f"{name}-source.git"
        subprocess.run(["git", "init", "-q", "--bare", str(source)], check=True)
        with subprocess.Popen(
            ["git", f"--git-dir={source}", "-c", "core.compression=0", "fast-import", "--quiet"], stdin=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            process.stdin.write(b"commit refs/heads/main\ncommitter b <b@example.invalid> 0 +0000\ndata 1\nb\n")
            for path, data in blobs:
                process.stdin.write(f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
        if process.returncode != 0:
            raise RuntimeError("git fast-import failed")
        mirror = self.repos.fetch(f"bench/{name}", f"file://{source}", None)
        git_dir = self.repos.run_dir(f"run-{name}", mirror)
        return SandboxSpec(git_dir=git_dir, tree=self.repos.resolve(mirror, "main")), git_dir


def small() -> Iterator[tuple[str, bytes]]:
    for number in range(FILES):
        yield f"d{number % 100}/f{number}.txt", f"{number}\n".encode() * 50


def large() -> Iterator[tuple[str, bytes]]:
    for number in range(LARGE_FILES):
        yield f"d{number % 50}/f{number}.bin", os.urandom(LARGE_BYTES)


def milliseconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def medians(count: int, *actions: Callable[[], object], pause: float = 0.0) -> list[float]:
    """The median of each, taken in turns, so that what else the machine does falls on all of them; `pause` seconds
    between them, as an agent's commands come between its model's answers: some costs show only then."""
    taken: list[list[float]] = [[] for _ in actions]
    for turn in range(count + 2):
        for values, action in zip(taken, actions, strict=True):
            time.sleep(pause)
            value = milliseconds(action)
            if turn >= 2:  # the first two warm up
                values.append(value)
    return [statistics.median(values) for values in taken]


def bare() -> None:
    subprocess.run(["true"], check=True, stdin=subprocess.DEVNULL, capture_output=True, env={})


def commands(bench: Bench, spec: SandboxSpec, basic: BwrapSandbox) -> list[Figure]:
    """Warm commands, against a bare process and against one bubblewrap per command."""
    with ExitStack() as stack:
        session = bench.sandbox.open(spec)
        stack.callback(session.close)
        other = basic.open(spec)
        stack.callback(other.close)
        inside, per_command, alone = medians(
            40, lambda: session.exec(["true"], timeout=30), lambda: other.exec(["true"], timeout=30), bare
        )
        now_and_then, alone_then = medians(20, lambda: session.exec(["true"], timeout=30), bare, pause=0.1)
    return [
        bench.figure("warm exec of true, over the bare process", inside - alone, goal=5),
        bench.figure("warm exec of true, over the bare process, 0.1 s after the last", now_and_then - alone_then),
        bench.figure("warm exec of true", inside),
        figure("bare process: true", alone, "ms", goal=None, command=COMMAND),
        figure("bubblewrap per command (level basic): true", per_command, "ms", goal=None, command=COMMAND),
    ]


def opening(bench: Bench, spec: SandboxSpec) -> list[Figure]:
    """Open as often as a run does; closing is not counted."""
    taken = []
    for _ in range(12):
        started = time.perf_counter()
        session = bench.sandbox.open(spec)
        taken.append(1000 * (time.perf_counter() - started))
        session.close()
    return [bench.figure("session open", statistics.median(taken[1:]), goal=120)]


def snapshots(bench: Bench, spec: SandboxSpec, git_dir: Path) -> list[Figure]:
    """Three changed files of ten thousand, and the same tree by a fresh index over all of them."""
    session = bench.sandbox.open(spec)
    taken, slow, resets, unequal = [], [], [], 0
    script = "rm -f /tmp/i; export GIT_INDEX_FILE=/tmp/i; git add -A && git write-tree"
    try:
        base = session.snapshot()
        for turn in range(8):
            for change in range(CHANGES):
                session.write(f"d{change}/f{change + 100 * turn}.txt", f"changed {turn}\n".encode())
            trees: list[str] = []

            def both(found: list[str] = trees) -> None:
                found.append(session.snapshot())
                bench.repos.patch(git_dir, spec.tree, found[-1])

            taken.append(milliseconds(both))
            started = time.perf_counter()
            answer = session.exec(["sh", "-c", script], timeout=120).stdout.text.split()
            slow.append(1000 * (time.perf_counter() - started))
            unequal += answer[-1:] != trees
            resets.append(milliseconds(lambda: session.reset(base)))
        unequal += session.snapshot() != base
    finally:
        session.close()
    return [
        bench.figure(f"snapshot and diff, {CHANGES} changes in {FILES:,} files", statistics.median(taken), goal=150),
        bench.figure("the same tree by a fresh index", statistics.median(slow)),
        bench.figure("trees that differ from the slow way's", unequal, "trees", goal=0),
        bench.figure("reset", statistics.median(resets), goal=50),
    ]


def second_workspace(bench: Bench) -> list[Figure]:
    spec, _ = bench.repository("large", large())
    taken = []
    with ExitStack() as stack:
        for _ in range(6):
            started = time.perf_counter()
            session = bench.sandbox.open(spec)
            taken.append(1000 * (time.perf_counter() - started))
            stack.callback(session.close)
    return [
        bench.figure("first workspace of a mirrored 200 MB repository", taken[0]),
        bench.figure("second workspace of it at the same commit", statistics.median(taken[1:]), goal=300),
    ]


def at_once(bench: Bench, spec: SandboxSpec) -> list[Figure]:
    """All are open before the first is used, and all are used before the first is closed."""
    started = time.perf_counter()
    failed = 0
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        sessions = []
        for opening_one in [pool.submit(bench.sandbox.open, spec) for _ in range(AT_ONCE)]:
            error = opening_one.exception()
            if error is not None:
                print(f"a sandbox did not open: {error}", file=sys.stderr)
                failed += 1
                continue
            sessions.append(opening_one.result())
            stack.callback(sessions[-1].close)
        for done in pool.map(lambda session: session.exec(["true"], timeout=60), sessions):
            failed += done.status is not ExecStatus.EXIT or done.returncode != 0
        seconds = time.perf_counter() - started
    return [
        bench.figure(f"{AT_ONCE} sandboxes at once: failing", failed, "sandboxes", goal=0),
        bench.figure(f"{AT_ONCE} sandboxes at once: all open and used", seconds, "s"),
    ]


def main() -> int:
    remarks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="devstral-fix-bench-") as name:
        root = Path(name)
        root.chmod(0o711)
        repos = GitRepositories(root / "git", allow_file=True)
        basic = BwrapSandbox(root / "basic", repos, isolation=Isolation.BASIC)
        level, sandbox = Isolation.STRICT, basic
        try:
            sandbox = BwrapSandbox(root / "strict", repos, isolation=Isolation.STRICT)
        except IsolationMissing as e:
            level = Isolation.BASIC
            remarks.append(f"Level strict can't be had on this machine ({e}): the figures are level basic's.")
        bench = Bench(root, level, repos, sandbox)
        spec, git_dir = bench.repository("small", small())
        figures = commands(bench, spec, basic)
        figures += opening(bench, spec)
        figures += snapshots(bench, spec, git_dir)
        figures += at_once(bench, spec)
        figures += second_workspace(bench)
        others, why_not = sandbox_others.figures(root, COMMAND)
        figures += others
        remarks += why_not
    busy = os.getloadavg()[1]
    user = "root" if os.geteuid() == 0 else "a plain user"
    remarks.append(f"Started by {user}; load of the machine in the five minutes of the run: {busy:.1f}.")
    records.write("sandbox", figures, remarks=remarks)
    print(records.table(figures))
    report(remarks)
    return 0 if all(f.met is not False for f in figures) else 1


def report(remarks: Sequence[str]) -> None:
    for remark in remarks:
        print(remark)


if __name__ == "__main__":
    sys.exit(main())
