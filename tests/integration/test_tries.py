"""Runs of several tries, from the issue to the pull request: what is executed of them, which is taken, what of them
outlives a crash, a cancellation, a budget's end."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import func, select, text, update

from agent.outcome import Outcome
from agent.types import ExitStatus
from api import views
from tests.factories import issue_request
from tests.fakes import call, say
from tests.integration.whole import PROFILE, Whole
from worker.commands.show import described, lines
from worker.errors import ModelRejected, ModelUnavailable
from worker.runs import requests, states
from worker.runs.accounts import DayLimits
from worker.runs.recorded import recording
from worker.runs.tries import Cascade, Samples
from worker.store import queries, trajectories, tries
from worker.store.models import Run, RunState, Spend
from worker.store.money import Account, Reservation, Scope
from worker.store.steps import Step

LARGE = "large-123b"

# `kept` is lost where README.md no longer greets, and the first time that a new file says `flaky`; `made` passes where
# one says `right`. Each execution leaves a line outside. No file is named that a change makes.
CHECK = """
{{ cat new* 2>/dev/null || echo base; }} | head -1 >>{log}
kept='<failure/>'; grep -q hello READ* && kept=
made='<failure/>'; grep -qs right new* && made=
if grep -qs flaky new* && [ ! -e {log}.flaky ]; then touch {log}.flaky; kept='<failure/>'; fi
printf '<testsuite><testcase name="kept">%s</testcase><testcase name="made">%s</testcase></testsuite>' \\
  "$kept" "$made" >"$TEST_REPORT"
[ -z "$kept$made" ]
"""


class Killed(BaseException):
    """The process is gone."""


class Tried(Whole):
    def __init__(self, store, tmp_path, more=""):
        self.log = tmp_path / "executed"
        self.log.touch()
        script = CHECK.format(log=self.log).strip().replace("\n", "\n  ")
        config = f"test: |\n  {script}\ntest_report_format: junit\ntest_timeout_seconds: 20\n{more}"
        super().__init__(store, tmp_path, {"README.md": "hello\n", ".devstral-fix.yml": config})
        self.number = self.github.open_issue()
        self.ask(issue_request(self.number))

    @property
    def executed(self) -> list[str]:
        return self.log.read_text().split()

    def rows(self, run: Run) -> list[tries.Try]:
        with self.store.transaction() as session:
            return list(tries.of_run(session, run.id))

    def costs(self, run: Run) -> dict[int, tries.Cost]:
        with self.store.transaction() as session:
            return tries.costs(session, run.id)

    def lost(self) -> None:
        """The worker is not heard of any more."""
        with self.store.transaction() as session:
            session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 s'")))
        with self.store.transaction() as session:
            states.expire(session)

    def cascade(self, *profiles: str) -> None:
        self.verify = replace(self.verify, cascade=Cascade(profiles))


@pytest.fixture
def world(store, tmp_path):
    made = Tried(store, tmp_path)
    yield made
    made.heartbeat.close()


def write(content: str, path: str = "new.txt"):
    arguments = {"path": path, "content": content, "overwrite": True}
    return call(("write_file", json.dumps(arguments)))


def named(change: int):
    return call(("choose", json.dumps({"change": change, "why": "it looks best"})))


BREAKS = (write("bye\n", "README.md"), say("I changed the greeting."))
RIGHT = (write("right\n"), say("Made it."))
IDLES = (write("wrong\n", "other.txt"), say("Made something."))


def test_the_try_with_the_best_evidence_is_delivered(world):
    """Red without `standing` in `agent.choice.choose`: then the critic's word would count, which is wrong here."""
    run = world.work(*BREAKS, *RIGHT, *IDLES, named(1), samples=Samples(each=3))
    assert (run.state, run.outcome, run.chosen) == (RunState.DELIVERED, Outcome.FIXED, 1), run.reason
    assert run.summary == "Made it."
    assert world.file(run.branch, "new.txt") == "right\n"
    assert world.file(run.branch, "README.md") == "hello\n"
    assert [(one.temperature, one.outcome, one.named is not None) for one in world.rows(run)] == [
        (0.2, Outcome.UNSOLVED, True),
        (0.4, Outcome.FIXED, False),
        (0.6, Outcome.PARTIAL, False),
    ]
    assert [sampling.temperature for sampling in world.model.samplings] == [0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.0]
    (pull,) = world.github.pull_requests
    assert (
        "Best of 3 tries: try 2 (small-24b, temperature 0.4), chosen by what was executed. Others: "
        "try 1 (small-24b, temperature 0.2): unsolved; try 3 (small-24b, temperature 0.6): partial."
    ) in pull.body
    assert not pull.draft


def test_a_repository_asks_for_tries_and_gets_no_more_than_its_operator_allows(store, tmp_path):
    world = Tried(store, tmp_path, "samples: 3\n")
    run = world.work(*BREAKS, *RIGHT, named(1), samples=Samples(most=2))
    assert (run.outcome, [one.sample for one in world.rows(run)]) == (Outcome.FIXED, [0, 1])
    world.heartbeat.close()


def test_people_and_programs_are_told_of_each_try(world):
    run = world.work(*BREAKS, *RIGHT, named(1), samples=Samples(each=2))
    with world.store.transaction() as session:
        data = described(session, run.id)
        shown = views.run(session, run.id)
        kept = recording(session, run.id)
    assert [(one["number"], one["outcome"], one["chosen"], one["calls"]) for one in data["tries"]] == [
        (1, "unsolved", False, 2),
        (2, "fixed", True, 2),
    ]
    told = [line for line in lines(data) if line.startswith("try ")]
    assert "1 (small-24b, temperature 0.2)  unsolved; named by the comparison; 2 calls, $0.00" in told[0]
    assert "2 (small-24b, temperature 0.4)  fixed; the best one; 2 calls" in told[1]
    assert [one["outcome"] for one in shown["tries"]] == ["unsolved", "fixed"]
    assert kept.totals.calls == shown["steps"] == 2
    assert "right" in kept.patch


def test_the_ledger_sums_over_all_tries_and_the_comparison(world):
    run = world.work(*BREAKS, *RIGHT, named(2), samples=Samples(each=2))
    costs = world.costs(run)
    assert {sample: cost.calls for sample, cost in costs.items()} == {tries.CRITIC: 1, 0: 2, 1: 2}
    assert sum(cost.usd for cost in costs.values()) == run.usd == 5 * Decimal("0.00012")
    assert run.calls == 5
    with world.store.transaction() as session:
        own = session.scalars(select(Account.spent_usd).where(Account.scope == Scope.RUN, Account.key == str(run.id)))
        assert list(own) == [run.usd]
        assert session.scalar(select(func.count()).select_from(Reservation)) == 0


def test_the_runs_budget_holds_all_of_its_tries(world):
    world.work(*RIGHT, *RIGHT, *RIGHT, samples=Samples(each=3))
    with world.store.transaction() as session:
        (own,) = session.scalars(select(Account).where(Account.scope == Scope.RUN))
        assert (own.limit_usd, own.limit_tokens) == (9, 18_000_000)


def test_equal_changes_are_executed_once_and_outweigh_another(world):
    """The third try is as good by its tests, smaller, and named: the two that agree are taken all the same."""
    agree = (write("right\nas two say\n"), say("Made it."))
    alone = (write("right\n", "new-other.txt"), say("Made another."))
    run = world.work(*alone, *agree, *agree, named(1), samples=Samples(each=3))
    assert (run.outcome, run.chosen) == (Outcome.FIXED, 1), run.reason
    each = ["right", "base"]  # with the change; once more without it, to show what was repaired
    assert world.executed == ["base", *each, *each], "the base once for all, then each of two changes"
    first, second, third = world.rows(run)
    assert (first.evidence_of, second.evidence_of, third.evidence_of) == (0, 1, 1)
    with world.store.transaction() as session:
        shared = [queries.evidence(session, run.id, sample=sample) for sample in (1, 2)]
    assert [row.id for row in shared[0]] == [row.id for row in shared[1]] != []
    assert "most tries agree on it" in world.github.pull_requests[0].body
    assert "try 3 (small-24b, temperature 0.6): the same change" in world.github.pull_requests[0].body


def test_a_steady_try_is_better_than_a_flaky_one(world):
    flaky = (write("right\nflaky\n"), say("Made it."))
    steady = (write("right\nand steady\nand longer\n"), say("Made it, too."))
    run = world.work(*flaky, *steady, named(1), samples=Samples(each=2))
    assert (run.outcome, run.chosen) == (Outcome.FIXED, 1)
    assert [one.outcome for one in world.rows(run)] == [Outcome.FIXED] * 2, "of both it was shown that they mend it"
    with world.store.transaction() as session:
        assert [row.stage for row in queries.evidence(session, run.id, sample=0)].count("after_again") == 1


@pytest.mark.parametrize(
    ("answer", "best"),
    [
        (named(2), 1),
        (named(1), 0),
        (named(7), 0),
        (say("All of them are wonderful."), 0),
        (say(""), 0),
        (call(("bash", '{"command": "rm -rf /"}')), 0),
        (ModelUnavailable("gone"), 0),
        (ModelRejected("too long"), 0),
    ],
)
def test_the_critic_decides_where_evidence_does_not_and_its_nonsense_nothing(world, answer, best):
    one = (write("right\n"), say("A."))
    other = (write("right\nand more\n", "new-two.txt"), say("B."))
    run = world.work(*one, *other, answer, samples=Samples(each=2))
    assert (run.state, run.outcome, run.chosen) == (RunState.DELIVERED, Outcome.FIXED, best), run.reason


def test_without_a_critic_none_is_asked(world):
    run = world.work(*RIGHT, *IDLES, samples=Samples(each=2, critic=False))
    assert (run.outcome, run.chosen, run.calls) == (Outcome.FIXED, 0, 4)


def test_changes_that_agree_need_no_critic(world):
    run = world.work(*RIGHT, *RIGHT, samples=Samples(each=2))
    assert (run.outcome, run.calls) == (Outcome.FIXED, 4)


def test_all_tries_fail(world):
    run = world.work(*BREAKS, write("bye now\n", "README.md"), say("Done."), named(1), samples=Samples(each=2))
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.UNSOLVED)
    assert world.github.pull_requests == []
    assert [one.outcome for one in world.rows(run)] == [Outcome.UNSOLVED] * 2


def test_a_worker_killed_between_two_tries_makes_none_of_them_again(world):
    """Red where `tries.following` counts none as ended: the first would be asked for once more."""

    def die(_deadline, _cancel):
        raise Killed

    with pytest.raises(Killed):
        world.pursuer(*BREAKS, die, samples=Samples(each=2))()
    world.lost()
    run = world.work(*RIGHT, named(1), samples=Samples(each=2))
    assert (run.outcome, run.chosen, run.calls) == (Outcome.FIXED, 1, 5)
    assert [one.exit_status for one in world.rows(run)] == [ExitStatus.SUBMITTED] * 2
    assert [row.usd for row in world.costs(run).values()].count(Decimal("0.000240")) == 2


def test_a_worker_killed_within_the_second_try_goes_on_there(world):
    def die(_deadline, _cancel):
        raise Killed

    with pytest.raises(Killed):
        world.pursuer(*BREAKS, write("right\n"), die, samples=Samples(each=2))()
    world.lost()
    run = world.work(say("Made it."), named(1), samples=Samples(each=2))
    assert (run.outcome, run.chosen) == (Outcome.FIXED, 1)
    with world.store.transaction() as session:
        assert [step.index for step in trajectories.steps(session, run.id, sample=1)] == [0, 1]
        assert session.scalar(select(func.count()).select_from(Step)) == 4
        notes = [one.note for one in trajectories.attempts(session, run.id) if one.stage.value == "pursue"]
    assert notes[-1] == "try 2: goes on after step 1"


def test_a_worker_killed_after_the_last_try_asks_no_model_again(world, monkeypatch):
    from worker.stages.series import Series

    def die(_self):
        raise Killed

    monkeypatch.setattr(Series, "_compare", die)
    with pytest.raises(Killed):
        world.pursuer(*RIGHT, *RIGHT, samples=Samples(each=2))()
    monkeypatch.undo()
    world.lost()
    run = world.work(samples=Samples(each=2))
    assert (run.outcome, run.calls) == (Outcome.FIXED, 4)


def test_verification_goes_on_where_a_worker_was_lost_between_two_changes(world, monkeypatch):
    from worker.stages import verify

    plain, seen = verify.judged, []

    def die(*given, **more):
        seen.append(given)
        if len(seen) == 2:
            raise Killed
        return plain(*given, **more)

    monkeypatch.setattr(verify, "judged", die)
    with pytest.raises(Killed):
        world.work(*BREAKS, *RIGHT, named(1), samples=Samples(each=2))
    executed = len(world.executed)
    monkeypatch.undo()
    world.lost()
    world.verify(world.newest().id)
    run = world.follow()
    assert (run.state, run.outcome, run.chosen) == (RunState.DELIVERED, Outcome.FIXED, 1)
    assert "bye" not in world.executed[executed:]
    assert len(world.executed) > executed


def test_cancelled_between_two_tries_nothing_more_is_asked(world):
    def cancelled(_deadline, _cancel):
        with world.store.transaction() as session:
            requests.cancel(session, world.newest().id, by="ann")
        return say("Made it.")

    run = world.work(write("right\n"), cancelled, samples=Samples(each=3))
    assert (run.state, run.reason, run.calls) == (RunState.CANCELLED, "cancelled by ann", 2)
    with world.store.transaction() as session:
        patch = queries.patch(session, run.id)
        assert patch is not None
        assert [change["path"] for change in patch.files] == ["new.txt"]


def test_cancelled_within_the_second_try(world):
    def cancelled(_deadline, cancel):
        with world.store.transaction() as session:
            requests.cancel(session, world.newest().id, by="ann")
        world.heartbeat.beat()
        assert cancel.is_set()
        return say("", finish_reason="abort")

    run = world.work(*RIGHT, write("more\n"), cancelled, samples=Samples(each=3))
    assert (run.state, run.reason, run.exit_status) == (RunState.CANCELLED, "cancelled by ann", ExitStatus.CANCELLED)
    with world.store.transaction() as session:
        assert sorted(tries.patches(session, run.id)) == [0, 1]


def used_up(world):
    """An answer during which others spend what the repository had left for the day."""

    def generate(_deadline, _cancel):
        with world.store.transaction() as session:
            session.execute(update(Account).where(Account.scope == Scope.REPOSITORY).values(spent_usd=1))
        return write("right\n", "new-late.txt")

    return generate


DAY = DayLimits(repository=Decimal(1))


def test_a_budget_that_ends_in_the_second_try_leaves_the_first(world):
    run = world.work(*RIGHT, used_up(world), samples=Samples(each=3), days=DAY)
    assert (run.state, run.outcome, run.chosen) == (RunState.DELIVERED, Outcome.FIXED, 0), run.reason
    first, second = world.rows(run)
    assert (second.exit_status, second.no_room, first.no_room) == (ExitStatus.LIMITS_EXCEEDED, True, False)
    assert second.outcome is Outcome.PARTIAL, "what it had is looked at all the same"


def test_a_bug_in_the_second_try_does_not_take_the_first_along(world):
    run = world.work(*RIGHT, RuntimeError("a bug"), samples=Samples(each=3))
    assert (run.state, run.outcome, run.chosen) == (RunState.DELIVERED, Outcome.FIXED, 0)
    assert run.calls == 2


def test_more_tries_only_while_no_other_run_waits(world):
    """The first run is claimed while another waits, the second one alone."""
    other = world.github.open_issue()
    world.ask(issue_request(other))
    world.work(*RIGHT, *RIGHT, *RIGHT, samples=Samples(idle=2))
    first, second = world.runs()
    assert [len(world.rows(run)) for run in (first, second)] == [1, 2]
    assert [run.outcome for run in (first, second)] == [Outcome.FIXED] * 2


def test_what_failed_goes_to_the_next_profile_and_keeps_its_tries(world):
    world.cascade(PROFILE, LARGE)
    run = world.work(*BREAKS)
    assert (run.state, run.profile, run.outcome, run.exit_status) == (RunState.QUEUED, LARGE, None, None)
    assert "tried again with large-123b; small-24b ended so: the change breaks" in (run.reason or "")
    assert world.sent[-1].queue.endswith(LARGE)
    assert world.github.pull_requests == []
    run = world.work(*RIGHT, profile=LARGE)
    assert (run.state, run.outcome, run.chosen) == (RunState.DELIVERED, Outcome.FIXED, 1), run.reason
    assert [(one.profile, one.temperature) for one in world.rows(run)] == [(PROFILE, 0.2), (LARGE, 0.2)]
    with world.store.transaction() as session:
        spent = session.execute(select(Spend.profile, func.count()).group_by(Spend.profile)).all()
    assert sorted(map(tuple, spent)) == [(LARGE, 2), (PROFILE, 2)]
    assert "try 1 (small-24b, temperature 0.2): unsolved" in world.github.pull_requests[0].body
    assert world.file(run.branch, "new.txt") == "right\n"


def test_the_last_profile_delivers_what_it_has(world):
    world.cascade(PROFILE, LARGE)
    world.work(*BREAKS)
    executed = len(world.executed)
    run = world.work(*BREAKS, profile=LARGE)
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.UNSOLVED)
    assert len(world.executed) == executed, "the same change, which ended the same way, is not executed again"


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (RIGHT, Outcome.FIXED),
        (IDLES, Outcome.PARTIAL),
        ((say("QUESTION: which greeting?"), say("QUESTION: which greeting?")), Outcome.QUESTION),
        ((write("x\n", ".devstral-fix.yml"), say("Done.")), Outcome.REFUSED),
    ],
)
def test_what_did_not_fail_stays(world, answers, outcome):
    world.cascade(PROFILE, LARGE)
    run = world.work(*answers)
    assert (run.state, run.outcome, run.profile) == (RunState.DELIVERED, outcome, PROFILE)


def test_what_a_budget_ended_stays(world):
    world.cascade(PROFILE, LARGE)

    def breaks(deadline, cancel):
        used_up(world)(deadline, cancel)
        return write("bye\n", "README.md")

    run = world.work(breaks, days=DAY)
    assert (run.state, run.outcome, run.profile) == (RunState.DELIVERED, Outcome.UNSOLVED, PROFILE)


def test_cancelled_before_it_was_judged_it_goes_nowhere(world):
    world.cascade(PROFILE, LARGE)
    world.pursuer(*BREAKS)()
    with world.store.transaction() as session:
        requests.cancel(session, world.newest().id, by="ann")
    run = world.follow()
    assert (run.state, run.profile) == (RunState.CANCELLED, PROFILE)
