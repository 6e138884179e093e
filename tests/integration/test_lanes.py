"""The order of the queue against a real Postgres: fairness, the cap, and that a lane is there when it is needed."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, text, update

from tests.factories import queue_run
from worker.runs import queue_position, states
from worker.runs.priorities import Priority
from worker.runs.states import Lease
from worker.store import lane_upkeep, lanes
from worker.store.lanes import Lane
from worker.store.models import Run, RunState
from worker.store.session import DatabaseUnavailable

PROFILE = "small-24b"


def queued(store, *where: tuple[str, Priority], profile=PROFILE) -> list[UUID]:
    """One run for each (repository, priority), in this order."""
    made = []
    for repository, priority in where:
        with store.transaction() as session:
            number = (session.scalar(select(func.count()).select_from(Run)) or 0) + 1
            made.append(queue_run(session, number, repository=f"acme/{repository}", priority=priority, profile=profile))
    return made


def batch(*repositories: str) -> list[tuple[str, Priority]]:
    return [(repository, Priority.BATCH) for repository in repositories]


def claim(store, *, slots=100, profile=PROFILE, owner="w", turn=1) -> Lease | None:
    with store.transaction() as session:
        return states.claim_next(session, profile=profile, owner=owner, seconds=60, repository_slots=slots, turn=turn)


def claimed(store, count: int, **kwargs) -> list[UUID]:
    leases = [claim(store, **kwargs) for _ in range(count)]
    return [lease.run_id for lease in leases if lease is not None]


def wait_for_lock(store, waiting: Future) -> None:
    """Until the statement of the other thread waits for a lock, or is through."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while not waiting.done():
        with store.transaction() as session:
            if session.scalar(query):
                return


def test_repositories_take_turns_and_a_long_queue_of_one_holds_nobody_up(store):
    a1, a2, a3, b1, b2, c1 = queued(store, *batch("a", "a", "a", "b", "b", "c"))
    assert claimed(store, 7) == [a1, b1, c1, a2, b2, a3]


def test_a_person_goes_before_a_backlog(store):
    backlog = queued(store, *batch("a", "b"))
    person = queued(store, ("a", Priority.INTERACTIVE))
    assert claimed(store, 3) == person + backlog


def test_a_retry_keeps_its_priority_and_its_place_among_the_repositories(store):
    (first,) = queued(store, ("a", Priority.INTERACTIVE))
    other = queued(store, *batch("b"))
    lease = claim(store)
    with store.transaction() as session:
        states.advance(session, lease, RunState.QUEUED)
    assert claimed(store, 2) == [first, *other]


def test_a_lane_that_is_filled_run_by_run_does_not_always_come_first(store):
    long = queued(store, *batch("a", "a", "b", "b"))
    claimed(store, 2)
    newcomer = queued(store, *batch("c"))
    assert claimed(store, 1) == newcomer
    with store.transaction() as session:
        lane_upkeep.tidy(session)
    queued(store, *batch("c"))
    assert claimed(store, 1) == [long[1]], "c had its turn just now, though its lane was empty in between"


def test_the_cap_counts_running_runs_of_all_profiles(store):
    queued(store, *batch("a", "a"))
    queued(store, *batch("a"), profile="large-123b")
    (elsewhere,) = queued(store, *batch("b"))
    assert claim(store, slots=1, profile="large-123b") is not None
    assert claimed(store, 3, slots=1) == [elsewhere]
    with store.transaction() as session:
        busy = session.scalar(select(Run.id).where(Run.profile == "large-123b"))
        states.override(session, busy, RunState.CANCELLED)
    assert claim(store, slots=1) is not None


@pytest.mark.parametrize("other", [PROFILE, "large-123b"], ids=["same profile", "another profile"])
def test_two_claims_at_once_do_not_exceed_the_cap(store, other):
    queued(store, *batch("a", "a"))
    queued(store, *batch("a"), profile="large-123b")
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as session:
            first = states.claim_next(session, profile=PROFILE, owner="w", seconds=60, repository_slots=1)
            second = pool.submit(claim, store, slots=1, profile=other)
            wait_for_lock(store, second)
        assert first is not None
        assert second.result(20) is None, "the first was not committed yet, and counts all the same"


def test_many_claims_at_once_are_fair(store):
    queued(store, *batch(*"aaaaaaaabbbbbbbbcccccccc"))
    barrier = threading.Barrier(6)

    def work(_) -> list[UUID]:
        barrier.wait()
        return claimed(store, 2)

    with ThreadPoolExecutor(6) as pool:
        taken = [run_id for result in pool.map(work, range(6)) for run_id in result]
    with store.transaction() as session:
        counts = session.execute(
            select(Run.repository, func.count()).where(Run.id.in_(taken)).group_by(Run.repository)
        ).all()
    assert sorted(count for _, count in counts) == [4, 4, 4]


def test_a_run_that_an_operator_has_in_hand_is_passed_over_and_not_waited_for(store):
    first, second = queued(store, *batch("a", "a"))
    with store.transaction() as session:
        session.execute(select(Run.id).where(Run.id == first).with_for_update())
        lease = claim(store)
    assert lease is not None
    assert lease.run_id == second


def test_a_process_that_stops_inside_a_claim_does_not_stop_the_others(store, monkeypatch):
    queued(store, *batch("a", "b"))
    monkeypatch.setattr(lanes, "_TAKE_TURNS", text(lanes._TAKE_TURNS.text.replace(f"'{lanes.STALLED_MS}'", "'500'")))
    stopped = store.transaction()
    session = stopped.__enter__()
    assert states.claim_next(session, profile=PROFILE, owner="stopped", seconds=60) is not None
    with ThreadPoolExecutor(1) as pool:  # our thread does nothing meanwhile
        assert pool.submit(claim, store).result(20) is not None
    with pytest.raises(DatabaseUnavailable), store.transaction():
        session.execute(select(1))
    session.close()
    assert claim(store) is not None, "what it had claimed was never committed"


def test_a_lane_that_is_missing_is_added(store):
    (run_id,) = queued(store, *batch("a"))
    with store.transaction() as session:
        session.execute(delete(Lane))
    assert claim(store) is None
    with store.transaction() as session:
        assert lane_upkeep.mend(session) == 1
        assert lane_upkeep.mend(session) == 0
    assert claimed(store, 1) == [run_id]


def age(store) -> None:
    with store.transaction() as session:
        long_ago = func.now() - 2 * lane_upkeep.MEMORY
        session.execute(update(Lane).values(opened_at=long_ago, last_claimed_at=long_ago))


def test_an_empty_lane_is_removed_once_it_is_old_and_one_with_runs_never(store):
    queued(store, *batch("a", "b"))
    claimed(store, 1)
    with store.transaction() as session:
        assert lane_upkeep.tidy(session) == 0
    age(store)
    with store.transaction() as session:
        assert lane_upkeep.tidy(session) == 1
        assert session.scalars(select(Lane.repository)).all() == ["acme/b"]


def test_a_lane_is_not_removed_under_a_run_that_is_being_queued(store):
    queued(store, *batch("a"))
    claimed(store, 1)
    age(store)
    with store.transaction() as session:
        queue_run(session, 99, repository="acme/a", priority=Priority.BATCH)
        with store.transaction() as sweep:
            assert lane_upkeep.tidy(sweep) == 0
    assert claim(store) is not None


def test_a_run_that_is_queued_while_its_lane_is_removed_opens_it_again(store):
    queued(store, *batch("a"))
    claimed(store, 1)
    age(store)
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as sweep:
            assert lane_upkeep.tidy(sweep) == 1
            made = pool.submit(queued, store, *batch("a"))
            wait_for_lock(store, made)
        run_ids = made.result(20)
        assert claimed(store, 1) == run_ids


def test_a_run_freed_from_a_lost_worker_has_a_lane(store):
    (run_id,) = queued(store, *batch("a"))
    claimed(store, 1)
    with store.transaction() as session:
        session.execute(delete(Lane))
        session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 s'")))
    with store.transaction() as session:
        states.expire(session)
    assert claimed(store, 1) == [run_id]


def repositories(store, run_ids: list[UUID]) -> str:
    """Their first letters, in this order."""
    with store.transaction() as session:
        names = {row.id: row.repository for row in session.execute(select(Run.id, Run.repository))}
    return "".join(names[run_id].removeprefix("acme/")[0] for run_id in run_ids)


def test_a_turn_lasts_a_few_claims_of_one_worker(store):
    queued(store, *batch(*"aaaaabbbbbcc"))
    assert repositories(store, claimed(store, 12, turn=3)) == "aaabbbccaabb"


def test_workers_take_turns_side_by_side_each_with_a_repository_of_its_own(store):
    queued(store, *batch(*"aaaabbbbcccc"))
    taken = {owner: [] for owner in "vw"}
    for owner in "vwvwvwvw":
        taken[owner] += claimed(store, 1, owner=owner, turn=4)
    assert {owner: repositories(store, run_ids) for owner, run_ids in taken.items()} == {"v": "aaaa", "w": "bbbb"}


def test_a_person_goes_before_a_turn_that_was_begun(store):
    queued(store, *batch(*"aaaabbbb"))
    assert repositories(store, claimed(store, 1, turn=4)) == "a"
    queued(store, ("p", Priority.INTERACTIVE))
    assert repositories(store, claimed(store, 4, turn=4)) == "pbbb", "and who claims elsewhere gives up the turn"


def test_a_turn_of_a_worker_that_claims_no_more_holds_nobody_up(store):
    queued(store, *batch(*"aaaabb"))
    assert repositories(store, claimed(store, 1, owner="gone", turn=4)) == "a"
    assert repositories(store, claimed(store, 5, owner="w", turn=4)) == "bbaaa"


def test_a_turn_ends_when_its_runs_are_no_longer_warm(store):
    queued(store, *batch(*"aaabbb"))
    claimed(store, 1, turn=3)
    with store.transaction() as session:
        session.execute(update(Lane).values(last_claimed_at=Lane.last_claimed_at - lanes.WARM))
    assert repositories(store, claimed(store, 3, turn=3)) == "bbb"


def test_a_turn_passes_over_a_repository_at_its_cap_and_over_what_may_not_start(store):
    runs = queued(store, *batch(*"aaab"))
    assert repositories(store, claimed(store, 3, turn=4, slots=2)) == "aab"
    queued(store, *batch("b"))
    with store.transaction() as session:
        session.execute(update(Run).where(Run.id == runs[2]).values(held_reason="setup"))
    assert repositories(store, claimed(store, 2, turn=4)) == "b"


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_lane_waits_for_more_than_a_turn_of_each_other(store, workers):
    turn, names = 3, "abcd"
    queued(store, *batch(*(name for name in names for _ in range(12))))
    chance = random.Random(workers)
    order = repositories(
        store, [run for _ in range(36) for run in claimed(store, 1, owner=f"w{chance.randrange(workers)}", turn=turn)]
    )
    assert len(order) == 36
    waits = {name: [len(gap) for gap in order.rstrip(name).split(name)] for name in names}
    assert max(map(max, waits.values())) <= turn * (len(names) - 1), order


@pytest.mark.parametrize("turn", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_place_in_the_queue_is_the_number_of_claims_that_come_before(store, seed, turn):
    chance = random.Random(seed)
    where = [(chance.choice("abcd"), chance.choice(list(Priority))) for _ in range(14)]
    made = queued(store, *where)
    claimed(store, 4, turn=turn)  # so that lanes differ in when they were last claimed from
    with store.transaction() as session:
        places = queue_position.places(session, made)
    told = sorted(places, key=lambda run_id: places[run_id].position)
    assert [places[run_id].position for run_id in told] == list(range(1, 11))
    assert {place.of for place in places.values()} == {10}
    assert claimed(store, 10, turn=turn) == told
