"""Faults of our own processes: killed, frozen, asked to stop, with another clock, twice."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from typing import Any

from tests.faults import processes
from tests.faults.model_server import FIX, LOOK, say
from tests.faults.processes import running, until
from tests.faults.site import SWEEP_SECONDS, Case, Site, lease_seconds
from tests.faults.table import Fault, Row
from worker import wakes
from worker.queue import make_app

PATIENCE = 60.0
PROFILE = "small-24b"


def killed_mid_call(row: Row) -> None:
    site, case = row.site, row.submit("mid-call")
    held = site.model.hold(case.name, 1)
    site.reached(held)
    site.start("gpu-2")
    site.ready("gpu-2")
    died = _kill(site, "gpu", case)
    until("the model's call was cut", 10, lambda: any(c.end == "aborted" for c in site.model.of(case.name)))
    again = _taken_over(site, case, after=1)
    row.prove(f"kill -9 of the worker, its call at step 1 cut; claimed again {again - died:.1f} s later")
    site.finished(case, seconds=PATIENCE)
    promised = lease_seconds() + SWEEP_SECONDS + 2 * processes.patience
    row.demand(f"claimed again within {promised:g} s", again - died <= promised)


def killed_mid_command(row: Row) -> None:
    words = f"sleep 97.{time.time_ns() % 10**6:06d}"

    def plan(step: int, before: int) -> tuple[str, dict[str, Any]] | str:
        return ("bash", {"command": words}) if (step, before) == (1, 0) else say(FIX, LOOK)(step, before)

    site, case = row.site, row.submit("mid-command", plan=plan)
    until("the command runs", 30, lambda: running(words))
    _kill(site, "gpu", case)
    until("its command died with it", 10, lambda: not running(words))
    row.prove("kill -9 while a command ran in the sandbox; it ended with its worker")
    site.start("gpu")
    site.finished(case, seconds=PATIENCE)


def killed_while_verifying(row: Row) -> None:
    seconds = f"3.{time.time_ns() % 10**6:06d}"
    slow = ("bash", {"command": f"printf 'fixed\\n' > answer.txt; echo {seconds} > slow"})
    site, case = row.site, row.submit("verifying", plan=say(slow))
    until("the tests run", 40, lambda: running(f"sleep {seconds}"))
    row.demand("it is concluded", site.run(case)["state"] == "concluded")
    _kill(site, "cpu", case)
    row.prove("kill -9 of the worker that ran the tests of a concluded run")
    site.start("cpu")
    site.finished(case, seconds=PATIENCE)
    tokens = site.sql("SELECT DISTINCT lease_token FROM evidence WHERE run_id = %s", site.run(case)["id"])
    row.prove(f"evidence of {len(tokens)} verification(s), the newest one counts")


def killed_while_delivering(row: Row) -> None:
    site, case = row.site, row.submit("delivering", label=False)
    path = f"POST /repos/{case.repository}/pulls"
    site.double.fault(path, forward=True, delay=6, drop=True)
    before = len(site.double.pull_requests(case.repository))
    site.label(case)
    made = lambda: len(site.double.pull_requests(case.repository)) > before  # noqa: E731
    until("the pull request is there", 60, made)
    row.demand("it is not delivered yet", site.run(case)["state"] == "concluded")
    _kill(site, "default", case)
    row.prove("kill -9 after GitHub had made the pull request and before it said so")
    site.start("default")
    site.finished(case, seconds=PATIENCE)


def same_message_six_times(row: Row) -> None:
    site, case = row.site, row.submit("six-times", label=False)
    held = site.model.hold(case.name, 0)
    site.label(case)
    first = site.double.wait_for_delivery("issues", "labeled", matches=lambda d: _is(d.payload, case), timeout=20)
    again = [site.double.deliver("issues", first.body, guid=first.guid) for _ in range(5)]
    others = [site.double.deliver("issues", first.body) for _ in range(5)]
    row.demand("every webhook was answered 202", all(r.status == 202 for r in [first, *again, *others]))
    _send(site, *[wakes.intake()] * 6, *[wakes.permit(PROFILE)] * 6)
    site.reached(held)
    until("the deliveries are handled", 30, lambda: _handled(site, [r.guid for r in others]))
    held.open.set()
    run = site.in_state(case, "concluded", "delivered", seconds=30)
    _send(site, *[wakes.verify(run["id"])] * 6, *[wakes.deliver(run["id"])] * 6)
    site.in_state(case, "delivered", seconds=PATIENCE)
    _send(site, *[wakes.deliver(run["id"])] * 6)
    row.prove("one webhook 6 times under its own GUID and 5 times under others; each queue message 6 times")
    _drained(site)


def frozen_past_its_lease(row: Row) -> None:
    site, case = row.site, row.submit("frozen")
    mine, other = site.model.hold(case.name, 1), site.model.hold(case.name, 1)
    site.reached(mine)
    zombie, since = site.processes["gpu"], time.time()
    token = site.run(case)["lease_token"]
    zombie.send(signal.SIGSTOP)
    site.start("gpu-2")
    site.ready("gpu-2")
    site.reached(other, seconds=30)  # the run was taken over
    mine.open.set()  # the zombie's answer waits for it in its socket
    zombie.send(signal.SIGCONT)
    site.cut("frozen", since, case)
    refused = until("the zombie is told", 20, lambda: zombie.logged("lease_lost", run_id=site.run(case)["id"]))
    row.prove(
        f"SIGSTOP for {time.time() - since:.1f} s, taken over; "
        f"woken, it logged {refused['event']}: {refused.get('why', '')}"
    )
    other.open.set()
    site.finished(case, seconds=PATIENCE)
    late = site.sql(
        "SELECT count(*) AS n FROM spends WHERE run_id = %s AND lease_token = %s AND call > 0",
        site.run(case)["id"],
        token,
    )
    row.demand("the zombie's spend was refused", late[0]["n"] == 0)


def stopped_under_load(row: Row) -> None:
    site = row.site
    gpu = site.start("gpu", settings={"SHUTDOWN_GRACE_SECONDS": 2})
    site.ready("gpu")
    cases = [row.submit("stopped") for _ in range(4)]
    held = [site.model.hold(case.name, 1) for case in cases]
    for rule in held:
        site.reached(rule, seconds=40)
    since = time.time()
    gpu.send(signal.SIGTERM)
    code = gpu.wait(30)
    took = time.time() - since
    site.cut("SIGTERM", since, *cases)
    row.prove(f"SIGTERM with {len(cases)} calls in flight: exit status {code} after {took:.1f} s")
    site.model.release()
    site.start("gpu-2")
    site.finished(*cases, seconds=PATIENCE)
    row.demand("it exits 0", code == 0)
    attempts = [site.run(case)["attempt"] for case in cases]
    row.demand(f"handing back counts as no attempt (attempts {attempts})", not any(attempts))


def other_clock(row: Row) -> None:
    """The GPU worker five minutes ahead, the CPU worker five behind, the one that sweeps ahead."""
    site = row.site
    for name, seconds in (("gpu", 300), ("cpu", -300), ("default", 300)):
        site.start(name, plugin=f"clock={seconds}")
    site.ready("gpu", "cpu", "default")
    shifts = {name: _shift(site, name) for name in ("gpu", "cpu", "default")}
    row.demand(f"their clocks are off ({shifts})", all(abs(abs(s) - 300) < 30 for s in shifts.values()))
    row.prove("by their own logs " + ", ".join(f"{name} {shift:+.0f} s" for name, shift in shifts.items()))
    case, killed = row.submit("clock"), row.submit("clock-killed")
    held, dies = site.model.hold(case.name, 1), site.model.hold(killed.name, 1)
    site.reached(held, seconds=40)
    site.reached(dies, seconds=40)
    token = site.run(case)["lease_token"]
    beaten = site.run(case)["lease_expires_at"]
    until("its lease is renewed", 10, lambda: site.run(case)["lease_expires_at"] > beaten)
    left = site.sql(
        "SELECT extract(epoch FROM lease_expires_at - now()) AS left FROM runs WHERE id = %s", site.run(case)["id"]
    )
    row.demand(
        f"a lease is {lease_seconds():g} s of the database's ({left[0]['left']:.1f})",
        0 < left[0]["left"] <= lease_seconds(),
    )
    row.demand("nobody else took it", site.run(case)["lease_token"] == token)
    held.open.set()
    site.in_state(case, "delivered", seconds=PATIENCE)
    _kill(site, "gpu", killed)
    site.start("gpu")
    site.finished(killed, seconds=PATIENCE)
    row.prove("kill -9 then: swept by the one that is ahead, and taken over")


def two_beats(row: Row) -> None:
    site = row.site
    site.start("beat-2")
    case = row.submit("two-beats")
    held = site.model.hold(case.name, 1)
    site.reached(held)
    _kill(site, "gpu", case)
    site.start("gpu")
    site.finished(case, seconds=PATIENCE)
    row.demand("both beats live", all(site.processes[name].alive for name in ("beat", "beat-2")))
    sent = [
        sum("sending due task" in str(line["event"]).lower() for line in site.processes[name].lines())
        for name in ("beat", "beat-2")
    ]
    row.demand(f"both send sweeps ({sent})", all(sent))
    row.prove(f"both alive, {sent[0]} and {sent[1]} sweeps sent; a killed worker's run taken over once")


def no_beat(row: Row) -> None:
    site = row.site
    site.processes["beat"].kill()
    case = row.submit("no-beat")
    site.in_state(case, "delivered", seconds=PATIENCE)
    row.prove("kill -9 of beat: a run goes its way without it")


def crashes_to_the_limit(row: Row) -> None:
    site, case = row.site, row.submit("crashes", label=False, state="failed")
    site.label(case)
    for _ in range(3):
        held = site.model.hold(case.name, 1)
        site.reached(held, seconds=40)
        _kill(site, "gpu", case)
        site.start("gpu")
    run = site.in_state(case, "failed", seconds=PATIENCE)
    steps = site.sql("SELECT count(*) AS n FROM steps WHERE run_id = %s", run["id"])[0]["n"]
    row.prove(
        f"three workers killed: failed after attempt {run['attempt']} ({run['reason']}), "
        f"{steps} step(s) and {run['calls']} row(s) of spend kept"
    )
    row.demand("the history is kept", run["attempt"] == 3 and steps and run["calls"] and run["reason"])
    until(
        "people are told",
        30,
        lambda: any("failed" in c["body"] for c in site.double.comments(case.repository, case.number)),
    )


def _kill(site: Site, name: str, *cases: Case) -> float:
    since = time.time()
    at = site.processes[name].kill()
    site.cut(f"kill -9 of {name}", since, *cases)
    return at


def _taken_over(site: Site, case: Case, *, after: int) -> float:
    until("it is claimed again", 40, lambda: site.run(case)["lease_token"] > after and site.owner(case) is not None)
    return time.time()


def _is(payload: dict[str, Any], case: Case) -> bool:
    return bool(payload["repository"]["full_name"] == case.repository and payload["issue"]["number"] == case.number)


def _handled(site: Site, guids: list[str]) -> bool:
    rows = site.sql("SELECT count(*) AS n FROM deliveries WHERE key = ANY(%s) AND state <> 'received'", guids)
    return bool(rows[0]["n"] == len(guids))


def _send(site: Site, *messages: wakes.Wake) -> None:
    app = make_app(site.redis_url)
    for wake in messages:
        app.send_task(wake.task, args=[] if wake.id is None else [str(wake.id)], queue=wake.queue)
    app.close()


def _drained(site: Site) -> None:
    """Until no queue holds a message and the workers wait for the next one."""
    client = site.redis_client()
    queues = (wakes.DEFAULT, wakes.CPU, wakes.gpu_queue(PROFILE))
    until("the messages are spent", 30, lambda: not any(client.llen(queue) for queue in queues))
    client.close()


def _shift(site: Site, name: str) -> float:
    line = site.processes[name].logged("worker_started")
    assert line is not None
    started = time.time()
    return round((datetime.fromisoformat(line["time"]) - datetime.fromtimestamp(started, UTC)).total_seconds())


FAULTS = (
    Fault("the same message six times", same_message_six_times, 120, redis=True),
    Fault("worker killed mid-model-call", killed_mid_call, 120),
    Fault("worker killed mid-command", killed_mid_command, 120),
    Fault("worker killed while verifying", killed_while_verifying, 120),
    Fault("worker killed while delivering", killed_while_delivering, 120),
    Fault("worker frozen longer than its lease", frozen_past_its_lease, 120),
    Fault("SIGTERM under load", stopped_under_load, 120),
    Fault("clocks off by five minutes", other_clock, 150),
    Fault("two beats", two_beats, 120),
    Fault("no beat", no_beat, 90),
    Fault("max_attempts crashes", crashes_to_the_limit, 150),
)
