"""How a commit's tests end before any change is found out once, whoever asks, and when."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from itertools import islice

import pytest
from sqlalchemy import func, select, update

from agent.outcome import Execution
from agent.outcome import TestOutcome as Judged
from agent.reports import Case
from tests.factories import COMMIT
from worker.runs import baselines
from worker.runs.baselines import Busy, Claim, Key
from worker.stages.baselines import BaselineBusy, KeptBaselines
from worker.store.evidence import Baseline

KEY = Key(repository="acme/Textkit", commit=COMMIT, setup_key=None, digest="d")
FAILED = Execution(
    command="pytest",
    outcome=Judged.FAILED,
    returncode=1,
    seconds=2.5,
    output="1 failed\x00",
    cases={"t.py::a": Case.PASSED, "t.py::b": Case.FAILED},
)


def rows(store) -> int:
    with store.transaction() as session:
        return session.scalar(select(func.count()).select_from(Baseline)) or 0


def test_many_that_ask_at_once_execute_it_once(store):
    """Red where a claim does not wait for the one before (without the condition of the update)."""
    kept, executions, begun, everyone = KeptBaselines(store=store), [], threading.Event(), threading.Barrier(6)

    def execute():
        executions.append(1)
        assert begun.wait(10)
        return FAILED, True

    def ask(_):
        everyone.wait(10)
        try:
            return kept.of(KEY, execute, seconds=60)
        except BaselineBusy as busy:
            return busy

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, n) for n in range(6)]
        others = [future.result() for future in islice(as_completed(asked, timeout=10), 5)]  # the sixth waits for us
        begun.set()
        ends = [f.result(10) for f in asked]
    assert len(executions) == 1
    assert all(isinstance(other, BaselineBusy) for other in others)
    assert [end[1] for end in ends if not isinstance(end, BaselineBusy)] == [False]
    found, was_kept = kept.of(KEY, execute, seconds=60)
    assert was_kept
    assert len(executions) == 1
    assert found == FAILED.model_copy(update={"output": "1 failed\N{REPLACEMENT CHARACTER}"})
    assert rows(store) == 1


@pytest.mark.parametrize("change", ["commit", "setup_key", "digest", "repository"])
def test_another_key_is_another_baseline(store, change):
    kept = KeptBaselines(store=store)
    other = Key(**{**KEY.__dict__, change: "another"})
    assert kept.of(KEY, lambda: (FAILED, True), seconds=60)[1] is False
    assert kept.of(other, lambda: (FAILED, True), seconds=60)[1] is False
    assert rows(store) == 2


def test_whoever_dies_is_followed_and_can_not_write_later(store):
    """Red without `claimed_until` in the claim, and without the claim in `keep`."""
    with store.transaction() as session:
        first = baselines.take(session, KEY, seconds=60)
        assert isinstance(first, Claim)
        busy = baselines.take(session, KEY, seconds=60)
        assert isinstance(busy, Busy)
        assert 0 < busy.seconds <= 60
    with store.transaction() as session:
        session.execute(update(Baseline).values(claimed_until=func.now() - timedelta(seconds=1)))
    with store.transaction() as session:
        second = baselines.take(session, KEY, seconds=60)
        assert isinstance(second, Claim)
    with store.transaction() as session:
        baselines.keep(session, second, FAILED, sure=True)
        baselines.keep(session, first, FAILED.model_copy(update={"output": "late"}), sure=True)
        kept = baselines.take(session, KEY, seconds=60)
    assert isinstance(kept, Execution)
    assert kept.output.startswith("1 failed")


def test_what_was_broken_off_is_free_at_once(store):
    kept = KeptBaselines(store=store)

    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.of(KEY, broken, seconds=3600)
    assert kept.of(KEY, lambda: (FAILED, True), seconds=60) == (FAILED, False)


def test_what_could_not_be_judged_is_tried_again_after_a_while(store):
    """Red without `keep_until` in the claim."""
    kept = KeptBaselines(store=store)
    timeout = FAILED.model_copy(update={"outcome": Judged.ERROR, "cases": None, "note": "no end"})
    assert kept.of(KEY, lambda: (timeout, False), seconds=60)[1] is False
    assert kept.of(KEY, lambda: (timeout, False), seconds=60)[0].note == "no end"
    with store.transaction() as session:
        session.execute(update(Baseline).values(keep_until=func.now() - timedelta(seconds=1)))
    assert kept.of(KEY, lambda: (FAILED, True), seconds=60) == (FAILED, False)
    assert kept.of(KEY, lambda: (timeout, True), seconds=60)[1] is True
