"""Each defence taken away in the processes under test, and the row that must turn red for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults import outside, workers
from tests.faults.site import STANDARD, Site
from tests.faults.table import Fault, Result, happen

NAMES = ("fencing", "unique-key", "marker")


def _fault(found: Sequence[Fault], name: str) -> Fault:
    return next(fault for fault in found if fault.name == name)


ROWS = {
    "fencing": [_fault(workers.FAULTS, "worker frozen longer than its lease")],
    "unique-key": [_fault(workers.FAULTS, "the same message six times")],
    "marker": [
        _fault(outside.FAULTS, "GitHub: 502 after the comment"),
        _fault(outside.FAULTS, "GitHub: 502 after the pull request"),
    ],
}
CONSTRAINTS = (
    "ALTER TABLE deliveries DROP CONSTRAINT uq_deliveries_key",
    "DROP INDEX uq_runs_live_issue",
    "DROP INDEX uq_runs_live_branch",
)


def remove(root: Path, names: Sequence[str]) -> Iterator[Result]:
    """A red row is what is wanted here: it passes when it is red by what it found, and fails when it stays green."""
    for name in names:
        with Site(root / f"without-{name}") as site:
            site.plugin = name
            site.standard()
            if name == "unique-key":
                for statement in CONSTRAINTS:
                    site.sql(statement)
            for fault in ROWS[name]:
                yield _judged(name, happen(fault, site))
                site.model.release()
                site.restart(*STANDARD)


def _judged(name: str, result: Result) -> Result:
    red = result.verdict == "FAILED" and (result.findings.lost or result.findings.doubled or result.why)
    return Result(
        name=f"{name} | {result.name}",
        proof=result.proof,
        findings=result.findings,
        verdict="passed" if red else "FAILED",
        why=f"its row is red{': ' + result.why if result.why else ''}" if red else f"its row stays {result.verdict}",
        seconds=result.seconds,
    )
