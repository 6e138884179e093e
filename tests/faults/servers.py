"""Faults of Redis and Postgres."""

from __future__ import annotations

import signal
import time

from tests.faults.model_server import FIX, LOOK, say
from tests.faults.processes import running, until
from tests.faults.table import Fault, Row
from worker import wakes
from worker.settings import PREFIX

PATIENCE = 90.0
KILLS = 20
WORKERS = ("gpu", "cpu", "default")
PROFILE = "small-24b"


def redis_down_at_webhook_time(row: Row) -> None:
    site = row.site
    site.kill_redis()
    cases = [row.submit("redis-down") for _ in range(3)]
    records = [
        site.double.wait_for_delivery(
            "issues",
            "labeled",
            matches=lambda d, c=c: (
                (d.payload["repository"]["full_name"], d.payload["issue"]["number"]) == (c.repository, c.number)
            ),
        )
        for c in cases
    ]
    row.demand("webhooks are answered 202 all the same", all(record.status == 202 for record in records))
    rows = site.sql("SELECT state FROM deliveries WHERE key = ANY(%s)", [r.guid for r in records])
    row.demand("each is stored", [r["state"] for r in rows] == ["received"] * len(cases))
    site.start_redis()
    back = time.time()
    site.finished(*cases, seconds=PATIENCE)
    row.prove(
        f"Redis refused connections; {len(cases)} webhooks answered 202 and stored; "
        f"all delivered {time.time() - back:.1f} s after it came back"
    )


def redis_killed_again_and_again(row: Row) -> None:
    """Some slots busy, some idle: the state in which a worker of Celery 5.7 with late ack died every time."""
    site = row.site
    busy = [row.submit("redis-kills") for _ in range(2)]
    held = [site.model.hold(case.name, 1) for case in busy]
    for rule in held:
        site.reached(rule, seconds=40)
    until("every worker waits for messages", 30, lambda: site.waiting_workers() >= len(WORKERS))
    pids = {name: site.processes[name].pid for name in WORKERS}
    for count in range(KILLS):
        site.kill_redis()
        site.start_redis()
        until(
            f"every worker is back after kill {count + 1}",
            40,
            lambda: site.waiting_workers() >= len(WORKERS) or _dead(row),
        )
        row.demand(f"no worker died of kill {count + 1}: {_dead(row)}", not _dead(row))
    row.demand("they are the same processes", pids == {name: site.processes[name].pid for name in WORKERS})
    row.prove(
        f"kill -9 of Redis {KILLS} times with 2 of 4 slots busy; "
        f"the same {len(WORKERS)} workers waited for messages after each"
    )
    for rule in held:
        rule.open.set()
    after = row.submit("redis-kills")
    site.finished(*busy, after, seconds=PATIENCE)


def _dead(row: Row) -> list[str]:
    return [f"{n}: {row.site.processes[n].lines()[-2:]}" for n in WORKERS if not row.site.processes[n].alive]


def flushed_with_a_backlog(row: Row) -> None:
    site = row.site
    site.stop("gpu")
    cases = [row.submit("flushed") for _ in range(6)]
    for case in cases:
        site.in_state(case, "queued", seconds=40)
    client = site.redis_client()
    until("their permits are in Redis", 20, lambda: client.llen(wakes.gpu_queue(PROFILE)))
    permits = client.llen(wakes.gpu_queue(PROFILE))
    client.flushall()
    row.demand("they are gone", not client.llen(wakes.gpu_queue(PROFILE)))
    client.close()
    flushed = time.time()
    site.start("gpu")
    site.finished(*cases, seconds=PATIENCE)
    row.prove(
        f"FLUSHALL with {permits} permit(s) for {len(cases)} queued runs; "
        f"all delivered {time.time() - flushed:.1f} s later"
    )


def postgres_restarted(row: Row) -> None:
    site = row.site
    words = f"sleep 4.{time.time_ns() % 10**6:06d}"
    calling = row.submit("postgres-call")
    held = site.model.hold(calling.name, 1)
    commanding = row.submit("postgres-command", plan=say(FIX, ("bash", {"command": words}), LOOK))
    site.reached(held, seconds=40)
    until("a command runs", 40, lambda: running(words))
    site.restart_postgres(signal.SIGINT)
    held.open.set()
    row.prove("restarted (fast) under one call and one command")
    killed = row.submit("postgres-killed")
    held = site.model.hold(killed.name, 1)
    site.reached(held, seconds=40)
    site.restart_postgres(signal.SIGKILL)
    held.open.set()
    row.prove("then kill -9 of its first process under another call")
    site.finished(calling, commanding, killed, seconds=PATIENCE)
    row.demand("every process lives", all(p.alive for p in site.processes.values()))


def longer_than_the_visibility_timeout(row: Row) -> None:
    """Redis would hand a message out again after its visibility timeout, were it not acknowledged early."""
    site, seconds = row.site, 2
    settings = {"VISIBILITY_SECONDS": seconds}
    for name in WORKERS:
        site.start(name, settings=settings)
    site.ready(*WORKERS)
    row.demand("the setting is there", PREFIX + "VISIBILITY_SECONDS" in site.processes["gpu"].env)
    case = row.submit("visibility")
    held = site.model.hold(case.name, 1)
    site.reached(held, seconds=40)
    client = site.redis_client()
    since = time.time()
    # The fault itself is that this much time passes.
    until("the timeout is long over", 5 * seconds, lambda: time.time() - since > 3 * seconds)
    kept = sum(b"pursue" in value for value in client.hvals("unacked"))
    client.close()
    run = site.run(case)
    held.open.set()
    row.demand("nobody claimed it a second time", run["lease_token"] == 1)
    site.finished(case, seconds=PATIENCE)
    row.prove(
        f"a call of {3 * seconds} s under a visibility timeout of {seconds} s: "
        f"{kept} permit(s) kept as unacknowledged, claimed once"
    )


FAULTS = (
    Fault("Redis down at webhook time", redis_down_at_webhook_time, 150, redis=True),
    Fault(f"Redis killed {KILLS} times, slots busy", redis_killed_again_and_again, 240, redis=True),
    Fault("FLUSHALL with a backlog", flushed_with_a_backlog, 150, redis=True),
    Fault("longer than the visibility timeout", longer_than_the_visibility_timeout, 120, redis=True),
    Fault("Postgres restarted mid-run", postgres_restarted, 180),
)
