"""One row of the table: what happened, what was lost or doubled, and the verdict."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import processes
from tests.faults.examine import Findings, examine
from tests.faults.model_server import Plan
from tests.faults.processes import Short
from tests.faults.site import Case, Site


class Skipped(Exception):
    """This machine can't show the fault; the message says why."""


@dataclass
class Row:
    """What a fault's function works with: the site, the issues it files, the proof it gathers."""

    site: Site
    cases: list[Case] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)

    def submit(self, kind: str, *, plan: Plan | None = None, label: bool = True, state: str = "delivered") -> Case:
        case = self.site.submit(kind, plan=plan, label=label, alone=not label, state=state)
        self.cases.append(case)
        return case

    def prove(self, text: str) -> None:
        self.proof.append(text)

    def demand(self, what: str, holds: object) -> None:
        if not holds:
            raise Short(what)


@dataclass(frozen=True)
class Fault:
    """`calm`: nothing of the site is stopped, so calm ones happen at the same time. `redis`: repeated with the
    distribution's Redis."""

    name: str
    body: Callable[[Row], None]
    seconds: float = 60
    calm: bool = False
    redis: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    name: str
    proof: str
    findings: Findings
    verdict: str  # passed, FAILED, skipped
    why: str = ""
    seconds: float = 0.0

    @property
    def line(self) -> str:
        def count(found: Sequence[str]) -> str:
            return "nothing" if not found else f"{len(found)}: {'; '.join(found[:3])}"

        verdict = self.verdict + (f" ({self.why})" if self.why else "")
        cells = (self.name, self.proof or "-", count(self.findings.lost), count(self.findings.doubled), verdict)
        return " | ".join(" ".join(cell.split()).replace("|", "/") for cell in cells)


def happen(fault: Fault, site: Site, *, label: str = "") -> Result:
    """Let the fault happen on `site` and examine what became of its issues. Never raises."""
    row, started, why, verdict = Row(site), time.monotonic(), "", ""
    try:
        with _limit(fault.seconds):
            fault.body(row)
    except Skipped as skipped:
        why, verdict = str(skipped), "skipped"
    except Short as short:
        why, verdict = str(short), "FAILED"
    except Exception as error:  # noqa: BLE001 - a row's own error is that row's failure
        where = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        verdict = "FAILED"
    findings = Findings()
    try:
        findings = examine(site, row.cases)
    except Exception as error:  # noqa: BLE001 - as above
        why, verdict = f"could not be examined: {type(error).__name__}: {error}; {why}", "FAILED"
    verdict = verdict or ("FAILED" if findings.lost or findings.doubled else "passed")
    result = Result(
        name=f"{fault.name}{label}",
        proof="; ".join(row.proof),
        findings=findings,
        verdict=verdict,
        why=why,
        seconds=time.monotonic() - started,
    )
    if verdict == "FAILED":
        tidy(site, row.cases)
    return result


def tidy(site: Site, cases: Sequence[Case]) -> None:
    """What a row that fell short left is not to disturb the next one."""
    site.model.down.clear()
    site.double.clear_faults()
    try:
        site.abandon(cases)
    except Exception as error:  # noqa: BLE001 - the next row says what is broken
        print(f"  could not tidy up: {error}", flush=True)


def one_by_one(faults: Sequence[Fault], site: Site, *, label: str = "") -> Iterator[Result]:
    for fault in faults:
        site.standard()
        yield happen(fault, site, label=label)
        site.model.release()


def at_once(faults: Sequence[Fault], site: Site) -> Iterator[Result]:
    """Calm ones mostly wait, each for runs of its own."""
    site.standard()
    with ThreadPoolExecutor(max(1, len(faults))) as pool:
        yield from pool.map(lambda fault: happen(fault, site), faults)
    site.model.release()


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """An alarm, where the main thread runs; elsewhere each wait has its own limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: Any) -> None:
        raise Short(f"not over within {seconds * processes.patience:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds * processes.patience)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
