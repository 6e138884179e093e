"""Faults of what others run: GitHub, the model server, the sandbox's disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.faults import processes
from tests.faults.model_server import FIX, LOOK, say
from tests.faults.processes import until
from tests.faults.table import Fault, Row, Skipped
from worker.adapters.sandbox import BwrapSandbox
from worker.compose import make_repositories
from worker.errors import IsolationMissing

PATIENCE = 100.0


def lost_answer(what: str, path: Callable[[str, int], str]) -> Callable[[Row], None]:
    """GitHub does what it was asked, and answers 502."""

    def body(row: Row) -> None:
        site, case = row.site, row.submit(what, label=False)
        line = path(case.repository, case.number)
        site.double.fault(line, forward=True)
        site.label(case)
        site.finished(case, seconds=PATIENCE)
        asked = site.double.requests(line)
        lost = [entry for entry in asked if entry.fault and entry.status == 502]
        row.demand("GitHub answered 502", lost)
        row.prove(f"{line}: done, answered {lost[0].status}; asked {len(asked)} time(s) in all")

    return body


def model_answers_500(row: Row) -> None:
    site, case = row.site, row.submit("model-500")
    rules = [site.model.rule(case.name, 1, status=500) for _ in range(5)]
    site.finished(case, seconds=PATIENCE)
    refused = [call for call in site.model.of(case.name) if call.end == "refused"]
    row.demand("the server answered 500", len(refused) == len(rules))
    row.demand("a model that is down counts as no attempt", site.run(case)["attempt"] == 0)
    row.prove(f"{len(refused)} times 500 in a row, one more than the client tries; no attempt counted")


def model_breaks_off(row: Row) -> None:
    site, case = row.site, row.submit("model-broken")
    site.model.rule(case.name, 1, broken=True)
    site.finished(case, seconds=PATIENCE)
    row.demand("an answer broke off", any(call.end == "broken" for call in site.model.of(case.name)))
    row.prove("half an answer, then the connection ended")


def model_dies(row: Row) -> None:
    site = row.site
    cases = [row.submit("model-dies") for _ in range(2)]
    held = [site.model.hold(case.name, 1) for case in cases]
    for rule in held:
        site.reached(rule, seconds=40)
    site.model.die()
    until("its calls were cut", 20, lambda: all(_cut(row, case.name) for case in cases))
    asked = len(site.model.calls)
    until("a worker has noticed", 60, lambda: any(site.run(case)["state"] == "queued" for case in cases))
    row.demand("nobody answered meanwhile", len(site.model.calls) == asked)
    site.model.start()
    row.prove("the server died under 2 calls and stayed away until the runs were given back")
    site.finished(*cases, seconds=PATIENCE)


def _cut(row: Row, case: str) -> bool:
    return any(call.end == "aborted" for call in row.site.model.of(case))


def model_hangs(row: Row) -> None:
    """No answer, ever: the run's own wall time ends it, and what it changed so far is delivered."""
    site = row.site
    wall = 8 * processes.patience
    site.start("gpu", settings={"LIMITS": json.dumps({"wall_seconds": wall})})
    site.ready("gpu")
    case = row.submit("model-hangs")
    held = site.model.hold(case.name, 1)
    site.reached(held, seconds=40)
    since = time.time()
    site.in_state(case, "concluded", "delivered", seconds=30)
    took = time.time() - since
    row.demand("the call was cut", any(call.end == "aborted" for call in site.model.of(case.name)))
    site.finished(case, seconds=PATIENCE)
    run = site.run(case)
    reached = (run["exit_status"], run["outcome"])
    row.demand(f"its changes were kept: {reached}, {run['reason']}", reached == ("limits_exceeded", "partial"))
    row.prove(f"no answer: cut after {took:.1f} s by the run's wall time of {wall:g} s, the diff so far delivered")


def disk_full(row: Row) -> None:
    site = row.site
    try:
        repositories = make_repositories(site.root / "probe")
        BwrapSandbox(site.root / "probe" / "workspaces", isolation="strict", objects=repositories)
    except IsolationMissing as missing:
        raise Skipped(f"a disk quota needs level strict: {missing}") from missing
    site.start("gpu", settings={"ISOLATION": "strict"}, plugin="small-disk")
    site.ready("gpu")
    fill = ("bash", {"command": "dd if=/dev/zero of=big bs=1M count=64"})
    case = row.submit("disk", plan=say(fill, ("bash", {"command": "rm -f big"}), FIX, LOOK))
    site.finished(case, seconds=PATIENCE)
    steps = site.sql('SELECT actions FROM steps WHERE run_id = %s ORDER BY "index"', site.run(case)["id"])
    told = steps[0]["actions"][0]
    row.demand(
        "the command says so", not told["ok"] and ("disk" in told["observation"] or "space" in told["observation"])
    )
    row.demand("the next ones work", all(step["actions"][0]["ok"] for step in steps[1:] if step["actions"]))
    row.prove("64 MiB into a workspace of 16: " + " ".join(told["observation"].split())[-120:])


FAULTS = (
    Fault(
        "GitHub: 502 after the comment",
        lost_answer("lost-comment", lambda r, n: f"POST /repos/{r}/issues/{n}/comments"),
        120,
        calm=True,
    ),
    Fault(
        "GitHub: 502 after the pull request",
        lost_answer("lost-pull", lambda r, n: f"POST /repos/{r}/pulls"),
        120,
        calm=True,
    ),
    Fault(
        "GitHub: 502 after the push",
        lost_answer("lost-push", lambda r, n: f"POST /{r}.git/git-receive-pack"),
        120,
        calm=True,
    ),
    Fault("model server answers 500", model_answers_500, 120, calm=True),
    Fault("model server breaks off", model_breaks_off, 120, calm=True),
    Fault("model server dies", model_dies, 150),
    Fault("model server hangs", model_hangs, 120),
    Fault("disk full in the workspace", disk_full, 120),
)
