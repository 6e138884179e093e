"""`make test-faults`: one fault at a time against real processes and servers, then a soak; what was lost, what doubled.

Prints a line per fault as it happens, then each defence taken away and the row that turns red for it, then the soak.
`--short` is what CI runs: fewer rows, no removals, no second Redis, 60 runs. `--only WORDS` picks faults;
`--without NAME` runs one removal; `--soak SECONDS` the soak alone.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults import outside, processes, removal, servers, soak, workers
from tests.faults.backing import DebianRedis, debian_redis
from tests.faults.site import Site
from tests.faults.table import Fault, Result, at_once, one_by_one
from worker.demo.github_double.emulator import EmulateMissing
from worker.errors import SettingsError

ALL = (*workers.FAULTS, *servers.FAULTS, *outside.FAULTS)
CALM = [fault for fault in ALL if fault.calm]
VIOLENT = [fault for fault in ALL if not fault.calm]
# Together two and a half minutes, and each has a quicker test of the same part elsewhere, or another row.
FULL_ONLY = (
    "Redis killed 20 times, slots busy",
    "SIGTERM under load",
    "longer than the visibility timeout",
    "model server dies",
    # Each waits for a second announcement, 20 to 40 s; the soak has them, too.
    "GitHub: 502 after the pull request",
    "GitHub: 502 after the push",
    "model server answers 500",
)


class Tally:
    def __init__(self) -> None:
        self.results: list[Result] = []

    def show(self, results: Iterator[Result]) -> None:
        for result in results:
            self.results.append(result)
            print(f"{result.line} | {result.seconds:.0f} s", flush=True)

    def count(self, verdict: str) -> int:
        return sum(result.verdict == verdict for result in self.results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="no removals, no second Redis, a soak of 60 runs")
    parser.add_argument(
        "--only",
        default=None,
        help="faults whose name holds one of these words, separated by commas; no removals, no soak",
    )
    parser.add_argument("--without", choices=removal.NAMES, default=None, help="take one defence away; nothing else")
    parser.add_argument("--soak", type=float, default=None, metavar="SECONDS", help="the soak alone")
    parser.add_argument("--runs", type=int, default=None, help="of the soak")
    parser.add_argument("--seed", type=int, default=None, help="of the soak")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies every limit, for a busy machine")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the logs")
    arguments = parser.parse_args()
    processes.adopt_orphans()
    processes.be_patient(arguments.patience)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken apart, as on Ctrl-C
    root = Path(tempfile.mkdtemp(prefix="devstral-fix-faults-"))
    root.chmod(0o711)
    tally, started = Tally(), time.monotonic()
    try:
        run(arguments, root, tally)
    finally:
        left = processes.end_everything()
        if arguments.keep:
            print(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    for name in left:
        print(f"left behind: {name}")
    failed = tally.count("FAILED") + bool(left)
    print(f"isolation=basic (one row: strict); no language model ran; {time.monotonic() - started:.0f} s")
    print(f"{tally.count('passed')} passed, {failed} failed, {tally.count('skipped')} skipped")
    return 1 if failed else 0


def run(arguments: argparse.Namespace, root: Path, tally: Tally) -> None:
    alone = arguments.soak is not None
    if arguments.without is None and not alone:
        words = (arguments.only or "").split(",")
        chosen = [f for f in ALL if any(word in f.name for word in words)]
        if arguments.short and arguments.only is None:
            chosen = [f for f in chosen if f.name not in FULL_ONLY]
            print(f"left to the full suite: {'; '.join(FULL_ONLY)}; removals; a second Redis")
        table(root, tally, chosen, repeat=not arguments.short)
    if arguments.without is not None or not (alone or arguments.only or arguments.short):
        names = [arguments.without] if arguments.without else removal.NAMES
        print("\nDefences taken away, one at a time: the row that turns red for it")
        print("without | fault | proof | lost | doubled | verdict")
        tally.show(removal.remove(root, names))
    if alone or (arguments.without is None and arguments.only is None):
        runs = arguments.runs or (60 if arguments.short else 300)
        tally.show(
            soak.soak(
                root / "soak",
                runs=runs,
                seconds=arguments.soak or (90 if arguments.short else 600),
                seed=arguments.seed,
            )
        )


def table(root: Path, tally: Tally, chosen: Sequence[Fault], *, repeat: bool) -> None:
    print("fault | proof that it happened | lost | doubled | verdict", flush=True)
    with Site(root / "site") as site:
        print(f"(Redis {site.redis_version()}, embedded)", flush=True)
        tally.show(at_once([f for f in chosen if f.calm], site))
        tally.show(one_by_one([f for f in chosen if not f.calm], site))
    repeated = [f for f in chosen if f.redis] if repeat else []
    if not repeated:
        return
    if debian_redis() is None:
        tally.show(_skip(repeated, "no redis-server on PATH"))
        return
    with Site(root / "debian", redis_kind=DebianRedis) as site:
        label = f" (Redis {site.redis_version()})"
        tally.show(one_by_one(repeated, site, label=label))


def _skip(faults: Sequence[Fault], why: str) -> Iterator[Result]:
    from tests.faults.examine import Findings

    for fault in faults:
        yield Result(
            name=f"{fault.name} (the distribution's Redis)", proof="", findings=Findings(), verdict="skipped", why=why
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EmulateMissing, SettingsError) as missing:
        print(f"failed: {missing}")
        print("0 passed, 1 failed, 0 skipped")
        sys.exit(1)
