"""Budgets against a real Postgres: never overshot, never in each other's way, and what is set aside comes free."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from sqlalchemy import func, select, text, update

from agent.errors import LimitsExceeded
from agent.types import Limits, Price, Usage
from api import views
from tests.factories import queue_run
from worker.errors import LeaseLost, ModelUnavailable
from worker.heartbeat import Holding
from worker.runs import batches, budget_words, budgets, ledger, states, totals
from worker.runs.accounts import Amount, DayLimits, Limited
from worker.stages.journal import LeasedJournal, NoRoom
from worker.store.models import Run, RunState, Spend
from worker.store.money import Account, Reservation, Scope
from worker.store.session import Store
from worker.sweep import Sweep

CENT = Decimal("0.01")


def amount(usd: str, tokens: int = 100) -> Amount:
    return Amount(Decimal(usd), tokens)


def claim(store) -> states.Lease:
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
    assert lease is not None
    return lease


@pytest.fixture
def lease(store):
    with store.transaction() as session:
        queue_run(session)
    return claim(store)


def reserve(store, lease, call, worst, **limits):
    days = DayLimits(**{k: limits.pop(k) for k in ("repository", "installation", "everything") if k in limits})
    with store.transaction() as session:
        return budgets.reserve(session, lease, call, worst, Limited(days=days, **limits))


def book(store, lease, call, usage, cost):
    with store.transaction() as session:
        ledger.book(session, lease, call=call, usage=usage, cost=cost, seconds=0.1, profile="small-24b", model="m")


def account(store, scope) -> Account:
    with store.transaction() as session:
        return session.scalars(select(Account).where(Account.scope == scope)).one()


@pytest.fixture
def watched(store):
    """The database itself refuses any write that goes over a limit, however short it would have stood."""
    wide = Store(store.engine.url.render_as_string(hide_password=False), pool_size=32)
    with wide.transaction() as session:
        session.execute(
            text(
                "ALTER TABLE accounts ADD CONSTRAINT never_over CHECK (spent_usd + reserved_usd <= limit_usd"
                " AND spent_tokens + reserved_tokens <= coalesce(limit_tokens, 1e15))"
            )
        )
    yield wide
    with wide.transaction() as session:
        session.execute(text("ALTER TABLE accounts DROP CONSTRAINT never_over"))
    wide.close()


def test_32_trajectories_never_overshoot_any_of_their_budgets(watched):
    """Random calls of 32 runs over shared repositories, installations and batches; some calls are never answered."""
    with watched.transaction() as session:
        shared = [batches.create(session, name=f"b{i}", by="a", budget=Decimal("0.25")).id for i in range(2)]
        for i in range(32):
            repository, where = f"acme/r{i % 4}", {"installation_id": i % 3, "batch_id": shared[i % 2]}
            queue_run(session, i + 1, repository=repository, **where)
    leases = [claim(watched) for _ in range(32)]
    limited = Limited(
        usd=Decimal("0.02"),
        tokens=4000,
        days=DayLimits(repository=Decimal("0.15"), installation=Decimal("0.20"), everything=Decimal("0.40")),
    )

    def work(lease: states.Lease) -> int:
        dice, refused = random.Random(lease.run_id.int), 0
        for call in range(12):
            usage = Usage(prompt=dice.randrange(1, 300), completion=dice.randrange(1, 100))
            worst = Amount(Decimal(dice.randrange(1, 10_000)) / 1_000_000, 400)
            with watched.transaction() as session:
                refusal = budgets.reserve(session, lease, call, worst, limited)
            if refusal is not None:
                refused += 1
            elif dice.random() < 0.2:
                with watched.transaction() as session:
                    budgets.release(session, lease, call)
            else:
                book(watched, lease, call, usage, float(worst.usd) * dice.random())
        return refused

    with ThreadPoolExecutor(32) as pool:
        refused = sum(pool.map(work, leases))
    assert refused > 0, "no budget was ever short"
    with watched.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Reservation)) == 0
        assert session.scalar(select(func.sum(Account.reserved_usd + Account.reserved_tokens))) == 0
        rows = session.scalar(select(func.sum(Spend.usd)))
        by_scope = select(Account.scope, func.sum(Account.spent_usd), func.sum(Account.calls)).group_by(Account.scope)
        calls = session.scalar(select(func.count()).select_from(Spend))
        assert {tuple(row) for row in session.execute(by_scope)} == {(scope, rows, calls) for scope in Scope}
        assert totals.differences(session) == []


def test_the_busiest_account_is_locked_last(store, lease):
    """The order in which accounts are locked is theirs, not that in which they lie in the table: whoever waits for
    the account of all holds the narrower ones already, so two that need the same accounts never wait for each other."""
    with store.transaction() as session:
        day = session.scalar(text("SELECT (now() AT TIME ZONE 'UTC')::date"))
        for scope, key in ((Scope.GLOBAL, ""), (Scope.INSTALLATION, "100"), (Scope.REPOSITORY, "acme/textkit")):
            session.add(Account(scope=scope, key=key, day=day))
            session.flush()
        session.add(Account(scope=Scope.RUN, key=str(lease.run_id)))
    holding = store.engine.connect()
    holding.execute(text("SELECT 1 FROM accounts WHERE scope = 'global' FOR UPDATE"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reserve, store, lease, 0, amount("0.01"))
        _until_someone_waits(store)
        with store.transaction() as session:
            free = select(Account.scope).with_for_update(skip_locked=True)
            locked = set(Scope) - {Scope.BATCH} - set(session.scalars(free))
        holding.rollback()
        holding.close()
        assert waiting.result() is None
    assert locked == {Scope.RUN, Scope.REPOSITORY, Scope.INSTALLATION, Scope.GLOBAL}


def _until_someone_waits(store) -> None:
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with store.transaction() as session:
            if session.scalar(waits):
                return
    raise AssertionError("nobody waited for a lock")


def test_a_call_that_costs_less_leaves_room_for_the_next(store, lease):
    limits = {"repository": Decimal("0.10")}
    assert reserve(store, lease, 0, amount("0.09"), **limits) is None
    refusal = reserve(store, lease, 1, amount("0.09"), **limits)
    assert refusal is not None
    assert refusal.passing, "only what is set aside stands in the way"
    book(store, lease, 0, Usage(prompt=50, completion=5), 0.01)
    assert reserve(store, lease, 1, amount("0.09"), **limits) is None
    there = account(store, Scope.REPOSITORY)
    assert (there.spent_usd, there.reserved_usd, there.spent_tokens, there.calls) == (CENT, Decimal("0.09"), 55, 1)


def test_a_refusal_names_the_budget_and_sets_nothing_aside(store, lease):
    book(store, lease, 0, Usage(prompt=50), 4.98)
    assert reserve(store, lease, 1, amount("0.02"), repository=Decimal(5)) is None
    refusal = reserve(store, lease, 2, amount("0.05"), repository=Decimal(5))
    assert refusal is not None
    assert refusal.why == (
        "budget: repository acme/textkit today: $4.9800 of $5.0000 used, $0.0200 reserved; "
        "the next call may need $0.0500"
    )
    assert (refusal.passing, refusal.first, refusal.scope) == (False, False, Scope.REPOSITORY)
    assert account(store, Scope.RUN).reserved_usd == Decimal("0.02")
    tokens = reserve(store, lease, 2, amount("0", 1000), tokens=1000)
    assert tokens is not None
    assert tokens.why.startswith(
        "budget: this run: 50 of 1,000 tokens used, 100 reserved; the next call may need 1,000"
    )


def test_a_late_worker_sets_nothing_aside(store, lease):
    with store.transaction() as session:
        states.override(session, lease.run_id, RunState.QUEUED)
    with pytest.raises(LeaseLost):
        reserve(store, lease, 0, amount("0.01"))
    with store.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Reservation)) == 0


def test_the_sweep_frees_what_a_lost_worker_had_set_aside(store, lease):
    assert reserve(store, lease, 0, amount("0.09"), everything=Decimal("0.10")) is None
    sweep = Sweep(store=store, send=lambda _: None, days=DayLimits(everything=Decimal("0.10")))
    sweep()
    assert account(store, Scope.GLOBAL).reserved_usd == Decimal("0.09"), "its worker is alive"
    with store.transaction() as session:
        session.execute(update(Run).values(lease_expires_at=func.now() - text("interval '1 s'")))
    sweep()
    there = account(store, Scope.GLOBAL)
    assert (there.reserved_usd, there.reserved_tokens, there.spent_usd) == (0, 0, 0)
    assert reserve(store, claim(store), 0, amount("0.09"), everything=Decimal("0.10")) is None


def test_a_used_up_budget_holds_queued_runs_until_it_is_raised_or_a_new_day_begins(store, lease):
    with store.transaction() as session:
        same = queue_run(session, 2)
        other = queue_run(session, 3, repository="acme/other")
    assert reserve(store, lease, 0, amount("0.06"), repository=Decimal("0.05")) is not None
    assert claim(store).run_id == other, "the other repository has a budget of its own"

    def claimable() -> bool:
        with store.transaction() as session:
            found = states.claim_next(session, profile="small-24b", owner="b", seconds=60)
            session.rollback()
        return found is not None

    assert not claimable()
    with store.transaction() as session:
        assert budget_words.held(session, session.get_one(Run, same)) == (
            "held: today's budget of acme/textkit is used up; goes on at 00:00 UTC"
        )
    Sweep(store=store, send=lambda _: None, days=DayLimits(repository=Decimal("0.055")))()
    assert not claimable(), "raised, but not enough for the call that was refused"
    Sweep(store=store, send=lambda _: None, days=DayLimits(repository=Decimal("0.10")))()
    assert claimable()
    Sweep(store=store, send=lambda _: None, days=DayLimits(repository=Decimal("0.05")))()
    assert not claimable()
    with store.transaction() as session:
        session.execute(update(Account).where(Account.day.is_not(None)).values(day=Account.day - 1))
    assert claimable()


@pytest.mark.parametrize("scope", ["batch", "installation", "everything"])
def test_every_shared_budget_holds_queued_runs(store, scope):
    with store.transaction() as session:
        batch = batches.create(session, name="b", by="a", budget=CENT if scope == "batch" else None).id
        for number in (1, 2):
            queue_run(session, number, batch_id=batch)
    lease = claim(store)
    limits = {} if scope == "batch" else {scope: CENT}
    assert reserve(store, lease, 0, amount("0.02"), **limits) is not None
    with store.transaction() as session:
        assert states.claim_next(session, profile="small-24b", owner="b", seconds=60) is None
    if scope == "batch":
        with store.transaction() as session:
            assert batches.set_budget(session, batch, Decimal(1))
        claim(store)


class Told(threading.Event):
    """Says when somebody begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_for.set()
        return super().wait(timeout)


def journal(store, lease, **changes) -> LeasedJournal:
    holding = Holding(lease, "pursue", until=float("inf"))
    holding.cancel = Told()
    values = {
        "price": Price(prompt=10.0, completion=10.0),  # a thousand tokens are a cent
        "limits": Limits(),
        "days": DayLimits(everything=Decimal("0.10")),
        **changes,
    }
    return LeasedJournal(
        store=store, holding=holding, stopping=threading.Event(), profile="small-24b", model="m", **values
    )


def test_a_call_waits_for_what_another_call_may_not_need(store, lease):
    with store.transaction() as session:
        queue_run(session, 2)
    mine, theirs = journal(store, claim(store)), journal(store, lease)
    with ThreadPoolExecutor(1) as pool:
        with theirs.reserve(0, 8000, 1000):
            pass

        def call() -> None:
            with mine.reserve(0, 8000, 1000):
                pass

        waiting = pool.submit(call)
        assert mine.holding.cancel.waited_for.wait(20)
        theirs.spend(0, Usage(prompt=1000), 0.01, 0.1)
        waiting.result(timeout=20)
    there = account(store, Scope.GLOBAL)
    assert (there.spent_usd, there.reserved_usd) == (CENT, Decimal("0.09"))


def test_a_run_that_did_something_ends_and_one_that_did_nothing_waits_in_the_queue(store, lease):
    ours = journal(store, lease, patience=0.0)
    with pytest.raises(NoRoom, match="budget: everything today"), ours.reserve(0, 10_000, 1000):
        pass
    with ours.reserve(0, 5000, 1000):
        pass
    ours.spend(0, Usage(prompt=5000), 0.05, 0.1)
    with (
        pytest.raises(LimitsExceeded, match=r"everything today: \$0.0500 of \$0.1000 used"),
        ours.reserve(1, 5000, 1000),
    ):
        pass


def test_a_call_without_an_answer_costs_nothing(store, lease):
    ours = journal(store, lease)

    def call() -> None:
        with ours.reserve(0, 5000, 1000):
            assert account(store, Scope.GLOBAL).reserved_usd == Decimal("0.06")
            raise ModelUnavailable("gone")

    with pytest.raises(ModelUnavailable):
        call()
    there = account(store, Scope.GLOBAL)
    assert (there.reserved_usd, there.spent_usd, there.calls) == (0, 0, 0)


def test_an_approximate_count_sets_more_aside(store, lease):
    with journal(store, lease, tokenizer="bundled (approximate)").reserve(0, 4000, 1000):
        assert account(store, Scope.GLOBAL).reserved_tokens == 7000


def test_what_a_call_costs_at_least_is_kept_beside_what_it_costs_at_most(store, lease):
    ours = journal(store, lease)
    ours.spend(0, Usage(prompt=1000, cached=900, completion=100), 0.011, 0.1)
    with store.transaction() as session:
        row = session.scalars(select(Spend)).one()
        assert (row.usd_low, row.usd) == (Decimal("0.002"), Decimal("0.011"))


def test_the_api_shows_a_runs_budgets_and_why_it_is_held(store, lease):
    with store.transaction() as session:
        waiting = queue_run(session, 2)
    assert reserve(store, lease, 0, amount("0.02"), everything=CENT) is not None
    with store.transaction() as session:
        shown = views.run(session, waiting)
    assert shown["held_reason"] == "held: today's budget of everything is used up; goes on at 00:00 UTC"
    limits = {budget["scope"]: (budget["limit_usd"], budget["used_up"]) for budget in shown["budgets"]}
    assert limits == {"repository": (None, False), "installation": (None, False), "global": (0.01, True)}
