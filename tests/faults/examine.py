"""What was lost and what was doubled, asked of the places where it must be true: GitHub, Postgres, the model server.

Lost: a webhook that was answered 2xx and came to nothing, a run without an end, an effect that people should see and
don't, an answered model call without a ledger row, a step that was booked and not recorded. Doubled: a second run,
pull request or status comment of one issue, a call booked twice, a recorded step done again.

The ledger is compared call by call: each answer's usage holds its number. The bound: an answered call may be unpaid
only where its worker was killed, frozen past its lease or cut from Postgres between the question and SLACK seconds
after the answer; a row without an answered call only where a call was cut short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.model_server import MOST_CALLS, Call
from tests.faults.site import FINAL, Case, Site

SLACK = 2.0
MARKER = "<!-- devstral-fix:status"


@dataclass
class Findings:
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    answered: int = 0
    booked: int = 0
    unpaid: int = 0  # answered, not booked, and accounted for by a cut


def examine(site: Site, cases: Sequence[Case]) -> Findings:
    findings = Findings()
    found = [(case, site.runs(case)) for case in cases]  # before GitHub is asked: what is delivered must be there
    pulls = {repository: site.double.pull_requests(repository) for repository in {c.repository for c in cases}}
    for case, runs in found:
        _deliveries(site, case, findings)
        if len(runs) != 1:
            (findings.lost if not runs else findings.doubled).append(f"{case.name}: {len(runs)} runs")
        for run in runs:
            _end(site, case, run, pulls[case.repository], findings)
            findings.lost += _totals(site, case, run)
            findings.doubled += _steps(site, case, run)
        _ledger(site, case, runs, findings)
    return findings


def _deliveries(site: Site, case: Case, findings: Findings) -> None:
    keys = [d.guid for d in site.double.deliveries() if _about(d.payload, case) and d.status and d.status < 300]
    rows = site.sql("SELECT key, state, reason FROM deliveries WHERE key = ANY(%s)", keys)
    found = Counter(row["key"] for row in rows)
    findings.lost += [f"{case.name}: webhook {key} was answered 2xx and is not stored" for key in {*keys} - {*found}]
    findings.doubled += [f"{case.name}: webhook {key} is stored {n} times" for key, n in found.items() if n > 1]
    findings.lost += [
        f"{case.name}: its webhook is {row['state']} ({row['reason']})"
        for row in rows
        if row["state"] not in ("handled", "ignored")
    ]


def _about(payload: dict[str, Any], case: Case) -> bool:
    return (
        payload.get("action") == "labeled"
        and payload.get("repository", {}).get("full_name") == case.repository
        and payload.get("issue", {}).get("number") == case.number
    )


def _end(site: Site, case: Case, run: dict[str, Any], pulls: list[dict[str, Any]], findings: Findings) -> None:
    state = run["state"]
    if state not in FINAL:
        findings.lost.append(f"{case.name}: its run is still {state} ({run['reason']})")
    elif state not in case.state.split("|"):
        findings.lost.append(f"{case.name}: its run ended as {state} ({run['reason']}), not {case.state}")
    ours = [pull for pull in pulls if pull["head"]["ref"] == run["branch"]]
    comments = [c for c in site.double.comments(case.repository, case.number) if MARKER in c["body"]]
    if len(ours) > 1:
        findings.doubled.append(f"{case.name}: {len(ours)} pull requests")
    if len(comments) > 1:
        findings.doubled.append(f"{case.name}: {len(comments)} status comments")
    if state == "delivered":
        missing = {"status comment": not comments}
        if run["outcome"] in ("fixed", "partial"):
            missing |= {"pull request": not ours, "branch": site.double.branch(case.repository, run["branch"]) is None}
        findings.lost += [f"{case.name}: delivered without a {what}" for what, absent in missing.items() if absent]
        told = site.sql("SELECT count(*) AS n FROM pull_requests WHERE run_id = %s", run["id"])[0]["n"]
        if told != len(ours):
            findings.lost.append(f"{case.name}: {len(ours)} pull requests on GitHub, {told} known")


def _ledger(site: Site, case: Case, runs: Sequence[dict[str, Any]], findings: Findings) -> None:
    calls = site.model.of(case.name)
    answered = {call.number: call for call in calls if call.end == "answered"}
    ids = [run["id"] for run in runs]
    rows = site.sql("SELECT * FROM spends WHERE run_id = ANY(%s)", ids)
    booked = Counter(row["completion_tokens"] for row in rows if row["completion_tokens"] in answered)
    findings.answered += len(answered)
    findings.booked += booked.total()
    findings.doubled += [f"{case.name}: call {n} is booked {times} times" for n, times in booked.items() if times > 1]
    cut_short = sum(call.end in ("aborted", "broken") for call in calls)
    others = [row for row in rows if row["completion_tokens"] not in answered]
    if len(others) > cut_short:
        findings.doubled.append(f"{case.name}: {len(others)} rows without an answer, {cut_short} calls were cut short")
    spans = [*case.cut, *site.cuts]
    for number in sorted(answered.keys() - booked.keys()):
        assert number < MOST_CALLS
        if _accounted(answered[number], spans):
            findings.unpaid += 1
        else:
            findings.lost.append(f"{case.name}: call {number} was answered and is not booked")
    kept = site.sql("SELECT count(*) AS n FROM steps WHERE run_id = ANY(%s)", ids)[0]["n"]
    missing = booked.total() - kept
    if missing > len(spans) + cut_short:
        findings.lost.append(f"{case.name}: {missing} calls were booked and have no step")


def _totals(site: Site, case: Case, run: dict[str, Any]) -> Iterator[str]:
    """The run's own totals are the sums of its rows."""
    sums = site.sql(
        "SELECT count(*) AS calls, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,"
        " coalesce(sum(completion_tokens), 0) AS completion_tokens, coalesce(sum(usd), 0) AS usd"
        " FROM spends WHERE run_id = %s",
        run["id"],
    )[0]
    for name, value in sums.items():
        if run[name] != value:
            yield f"{case.name}: {name} of the run is {run[name]}, its ledger's sum {value}"


def _steps(site: Site, case: Case, run: dict[str, Any]) -> Iterator[str]:
    """A step that was recorded is never done again: nobody asks the model for it a second time."""
    again = site.sql(
        "SELECT \"index\" AS step, count(*) AS n FROM steps WHERE run_id = %s AND actions <> '[]'"
        ' GROUP BY "index" HAVING count(*) > 1',
        run["id"],
    )
    for row in again:
        yield f"{case.name}: step {row['step']} was recorded {row['n']} times"


def _accounted(call: Call, spans: Sequence[tuple[float, float, str]]) -> bool:
    ended = call.ended or call.started
    return any(since <= ended + SLACK and until >= call.started for since, until, _ in spans)
