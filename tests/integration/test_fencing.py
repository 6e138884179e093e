"""Every write of a worker whose run is in other hands is refused, and the history tells how each attempt ended."""

from __future__ import annotations

import ast
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from agent.evidence import Verdict
from agent.outcome import Outcome
from agent.types import ExitStatus
from tests.factories import queue_run
from tests.integration.test_ledger import EVIDENCE, PATCH, STEP
from tests.integration.test_ledger import book as book_call
from worker.errors import LeaseLost
from worker.heartbeat import Heartbeat
from worker.runs import attempts, ledger, setups, states, tries
from worker.runs.states import Lease
from worker.store import queries, trajectories
from worker.store.base import Base
from worker.store.models import Run, RunState
from worker.store.session import Store

S = RunState


def queued(store: Store) -> UUID:
    with store.transaction() as session:
        return queue_run(session)


def claim(store: Store, owner: str = "a") -> Lease:
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner=owner, seconds=60)
    assert lease is not None
    return lease


def claim_stage(store: Store, run_id: UUID, stage: states.Stage, owner: str = "a") -> Lease:
    with store.transaction() as session:
        lease = states.claim_stage(session, run_id, stage, owner=owner, seconds=60)
    assert lease is not None
    return lease


def conclude(store: Store, lease: Lease) -> None:
    with store.transaction() as session:
        states.advance(session, lease, S.CONCLUDED, exit_status=ExitStatus.SUBMITTED, reason="done")


def verified(store: Store, lease: Lease) -> None:
    with store.transaction() as session:
        states.finish_verify(session, lease, outcome=Outcome.FIXED, reason="proven")


def expire(store: Store) -> list[tuple[UUID, RunState]]:
    with store.transaction() as session:
        session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 s'")))
    with store.transaction() as session:
        return states.expire(session)


def everything(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """All rows there are."""
    with store.transaction() as session:
        return {
            table.name: sorted(tuple(row) for row in session.execute(select(table.c[0], text(f"{table.name}::text"))))
            for table in Base.metadata.sorted_tables
        }


def history(store: Store, run_id: UUID) -> list[tuple[str, str | None, bool]]:
    with store.transaction() as session:
        rows = trajectories.attempts(session, run_id)
    return [(a.stage.value, a.ending.value if a.ending else None, a.counted) for a in rows]


LATE = {
    "spend": lambda session, lease: ledger.book(
        session, lease, call=0, usage=STEP.usage, cost=0.0, seconds=0.0, profile="p", model="m"
    ),
    "step": lambda session, lease: ledger.record_step(session, lease, STEP),
    "patch": lambda session, lease: ledger.record_patch(session, lease, PATCH),
    "evidence": lambda session, lease: ledger.record_evidence(session, lease, EVIDENCE),
    "outcome": lambda session, lease: states.finish_verify(session, lease, outcome=Outcome.FIXED),
    "columns": lambda session, lease: states.write(session, lease, summary="late"),
    "hand back": lambda session, lease: states.hand_back_stage(session, lease, reason="late", wait=0.0, counts=True),
    "set-up": setups.hold,
    "try begins": lambda session, lease: tries.begin(
        session, lease, 1, profile="p", temperature=0.4, model="m", opening="o", anew=True
    ),
    "try is named": lambda session, lease: tries.name(session, lease, 0, "late"),
    "try is judged": lambda session, lease: tries.judge(
        session, lease, 0, Verdict(outcome=Outcome.FIXED, reason="late"), evidence_of=0
    ),
    "to another profile": lambda session, lease: states.queue_elsewhere(
        session, lease, profile="large-123b", reason="late"
    ),
    **{
        f"to {to.value}": lambda session, lease, to=to: states.advance(session, lease, to, reason="late")
        for to in states.ENDS
    },
}


@pytest.mark.parametrize("write", LATE.values(), ids=LATE)
@pytest.mark.parametrize("stage", ["pursue", "verify", "deliver"])
def test_a_late_worker_writes_nothing_anywhere(store, stage, write):
    """Red without the lease in the condition of `states.write`, or, for moves that are legal, of `states.advance`."""
    run_id = queued(store)
    late = claim(store)
    if stage != "pursue":
        conclude(store, late)
        late = claim_stage(store, run_id, "verify")
    if stage == "deliver":
        verified(store, late)
        late = claim_stage(store, run_id, "deliver")
    assert expire(store) == [(run_id, S.QUEUED if stage == "pursue" else S.CONCLUDED)]
    if stage == "pursue":
        claim(store, "b")
    else:
        claim_stage(store, run_id, stage, "b")
    before = everything(store)
    with pytest.raises(LeaseLost), store.transaction() as session:
        write(session, late)
    assert everything(store) == before


def test_a_late_worker_neither_renews_the_lease_nor_writes_where_its_steps_begin(store):
    run_id = queued(store)
    late = claim(store)
    expire(store)
    claim(store, "b")
    before = everything(store)
    heartbeat = Heartbeat(store, seconds=3600)
    with heartbeat.hold(late) as holding:
        heartbeat.beat()
        assert holding.lost
    heartbeat.close()
    with store.transaction() as session:
        assert not attempts.goes_on(session, run_id, late.token, first_step=0, model="m", opening="o", note=None)
    assert everything(store) == before


def test_each_stage_has_all_its_tries_and_each_lost_lease_counts_once(store):
    """Red where a stage does not set `attempt` back: the third lost lease would fail the run."""
    run_id = queued(store)
    for _ in range(2):
        claim(store)
        assert expire(store) == [(run_id, S.QUEUED)]
        assert expire(store) == [], "once"
    conclude(store, claim(store))
    for _ in range(2):
        claim_stage(store, run_id, "verify")
        assert expire(store) == [(run_id, S.CONCLUDED)]
    verified(store, claim_stage(store, run_id, "verify"))
    for _ in range(2):
        claim_stage(store, run_id, "deliver")
        assert expire(store) == [(run_id, S.CONCLUDED)]
    claim_stage(store, run_id, "deliver")
    assert expire(store) == [(run_id, S.FAILED)]
    lost = ("lease lost", True)
    assert history(store, run_id) == [
        *[("pursue", *lost)] * 2,
        ("pursue", "concluded", False),
        *[("verify", *lost)] * 2,
        ("verify", "verified", False),
        *[("deliver", *lost)] * 3,
    ]


def test_a_stage_whose_lease_ran_out_is_the_sweeps_first(store):
    """Red where a claim takes it: the takeover would go uncounted, and a run that kills its workers would never end."""
    run_id = queued(store)
    conclude(store, claim(store))
    claim_stage(store, run_id, "verify")
    with store.transaction() as session:
        session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 h'")))
    with store.transaction() as session:
        assert states.claim_stage(session, run_id, "verify", owner="b", seconds=60) is None
    with store.transaction() as session:
        assert states.expire(session) == [(run_id, S.CONCLUDED)]
    claim_stage(store, run_id, "verify", "b")


def test_giving_back_counts_only_where_it_says_so(store):
    run_id = queued(store)
    for counted in (False, True, False):
        with store.transaction() as session:
            states.advance(session, lease := claim(store), S.QUEUED, counted=counted, reason="why")
        assert lease.run_id == run_id
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        rows = trajectories.attempts(session, run_id)
    assert run.attempt == 1
    assert [(a.ending, a.counted, a.reason) for a in rows] == [("given back", c, "why") for c in (False, True, False)]


def test_an_operators_move_closes_the_attempt_under_it(store):
    run_id = queued(store)
    claim(store)
    with store.transaction() as session:
        states.override(session, run_id, S.CANCELLED, reason="cancelled by ann")
    assert history(store, run_id) == [("pursue", "overruled", False)]


def test_a_lease_that_was_let_go_of_without_a_word_hinders_no_claim(store):
    run_id = queued(store)
    claim(store)
    with store.transaction() as session:
        session.execute(update(Run).values(state=S.QUEUED, lease_owner=None, lease_expires_at=None))
    claim(store, "b")
    assert history(store, run_id) == [("pursue", "overruled", False), ("pursue", None, False)]


def test_tries_of_a_set_up_are_not_the_agents(store):
    run_id = queued(store)
    with store.transaction() as session:
        session.execute(update(Run).values(held_reason=setups.HELD))
        setups.postpone(session, run_id, reason="index down", seconds=0)
    with store.transaction() as session:
        assert session.get_one(Run, run_id).attempt == 1
    with store.transaction() as session:
        setups.release(session, run_id, None)
    with store.transaction() as session:
        assert session.get_one(Run, run_id).attempt == 0
    claim(store)
    expire(store)
    with store.transaction() as session:
        session.execute(update(Run).values(held_reason=setups.HELD))
        setups.release(session, run_id, None)
    with store.transaction() as session:
        assert session.get_one(Run, run_id).attempt == 1, "a layer made anew gives no try back"


def test_two_attempts_may_book_the_same_call_and_the_totals_hold_both(store):
    run_id = queued(store)
    book_call(store, claim(store), 0)
    expire(store)
    book_call(store, claim(store, "b"), 0)
    with store.transaction() as session:
        spend = trajectories.spend_by_attempt(session, run_id)
        assert [sums.calls for sums in spend.values()] == [1, 1]
        assert sum(sums.usd for sums in spend.values()) == session.get_one(Run, run_id).usd


def test_an_answer_comes_back_exactly(store):
    """Also what text in Postgres can't hold."""
    from agent.types import AssistantMessage, ToolCall

    queued(store)
    lease = claim(store)
    odd = ToolCall(id="a\x00b", name="ba\ud800sh", arguments='{"command": "\x00\udfff"}')
    answer = AssistantMessage(content="\x00\ud800 \U0001f600\n", tool_calls=(odd,), raw="[TOOL_CALLS]\x00")
    action = STEP.actions[0].model_copy(update={"call": odd, "observation": "seen"})
    step = STEP.model_copy(update={"thought": "t", "answer": answer, "actions": (action,), "elapsed": 1.5})
    with store.transaction() as session:
        ledger.record_step(session, lease, step)
    with store.transaction() as session:
        assert ledger.stored_step(queries.steps(session, lease.run_id)[0]) == step


DECIDING = ("worker/runs", "worker/stages", "worker/store", "worker/heartbeat.py", "worker/sweep.py", "worker/tasks.py")
WALL_CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")} | {
    ("time", name) for name in ("time", "time_ns", "localtime", "gmtime", "ctime")
}


def test_nothing_that_decides_about_runs_asks_a_workers_wall_clock():
    """One worker's clock may be off by minutes: moments are the database's, spans are measured by clocks that only
    grow."""
    root = Path(__file__).parents[2]
    files = [f for part in DECIDING for f in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))]
    assert len(files) > 20
    asked = [
        f"{file.relative_to(root)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in WALL_CLOCKS
    ]
    assert asked == []


@pytest.mark.parametrize("hours", [1, 25])
def test_the_patience_of_delivery_is_the_databases(store, hours):
    run_id = queued(store)
    conclude(store, claim(store))
    with store.transaction() as session:
        session.execute(update(Run).values(concluded_at=text(f"now() - interval '{hours} h'")))
    with store.transaction() as session:
        assert 0 <= queries.seconds_since_conclusion(session, run_id) - hours * 3600 < 600
