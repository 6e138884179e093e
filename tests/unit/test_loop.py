"""Every way a trajectory can go and end, with a real workspace and a scripted model."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.errors import Cancelled, NotSaved
from agent.loop import MAX_UNUSABLE, Agent
from agent.types import (
    AssistantMessage,
    Completion,
    ExitStatus,
    Limits,
    Price,
    Sampling,
    Task,
    ToolMessage,
    Usage,
    UserMessage,
)
from agent.window import APPROXIMATE
from tests.fakes import FakeChanges, FakeJournal, FakeModel, FakeSession, call, say, workspace
from worker.errors import LeaseLost, ModelUnavailable, SandboxUnavailable

TASK = Task(repository="acme/shop", issue_number=7, title="Sum is wrong", body="1 + 1 gives 3", base_commit="0" * 40)
EDIT = call(("write_file", json.dumps({"path": "fix.py", "content": "x = 2\n"})))
LOOK = call(("read_file", '{"path": "shop.py"}'))
NOISE = Completion(message=AssistantMessage(), usage=Usage(prompt=100, completion=10), finish_reason="stop", seconds=0)


def bash(command: str) -> tuple[str, str]:
    return ("bash", json.dumps({"command": command}))


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(tmp_path, {"shop.py": "x = 3\n"})


Make = Callable[..., Agent]


@pytest.fixture
def make(session: FakeSession) -> Make:
    base = session.snapshot()

    def made(
        *answers: object,
        model: FakeModel | None = None,
        journal: FakeJournal | None = None,
        review: bool = False,
        objects: Sequence[str] = (),
        **limits: float,
    ):
        return Agent(
            model or FakeModel(*answers),
            session,
            journal or FakeJournal(),
            TASK,
            limits=Limits.model_validate(limits),
            price=Price(prompt=1.0, completion=10.0),
            sampling=Sampling(),
            cancel=threading.Event(),
            changes=FakeChanges(session.git_dir, base, objects),
            review=review,
        )

    return made


def test_a_change_and_a_summary_is_a_submission(make: Make, session: FakeSession):
    agent = make(LOOK, EDIT, say("Fixed the sum."))
    result = agent.run()
    assert (result.exit_status, result.summary, result.steps) == (ExitStatus.SUBMITTED, "Fixed the sum.", 3)
    assert result.usage == Usage(prompt=300, cached=120, completion=30)
    assert result.usd == pytest.approx(3 * (100 + 100) / 1e6)
    assert result.changed
    assert result.final_tree == session.snapshot()
    assert agent.model.conversation.closed
    assert agent.result == result


def test_a_step_is_journaled_with_its_tree_only_when_that_changed(make: Make):
    journal = FakeJournal()
    result = make(LOOK, EDIT, call(bash("true")), say("done"), journal=journal).run()
    assert [step.tree for step in journal.steps] == [None, result.final_tree, None, None]
    assert [step.index for step in journal.steps] == [0, 1, 2, 3]
    assert [spend[0] for spend in journal.spends] == [0, 1, 2, 3]


def test_order_within_a_step(make: Make):
    journal = FakeJournal()
    make(EDIT, say("done"), journal=journal).run()
    assert journal.order[:4] == ["checkpoint", "spend", "checkpoint", "step"]


def test_several_calls_of_one_answer_run_in_order_and_have_one_result_each(make: Make, session: FakeSession):
    answer = call(bash("echo a >> log"), ("nonsense", "{}"), bash("echo b >> log"), ("bash", "{broken"))
    agent = make(answer, say("done"))
    agent.run()
    assert session.read("log") == b"a\nb\n"
    results = [m for m in agent.model.conversation.messages if isinstance(m, ToolMessage)]
    assert [m.tool_call_id for m in results] == [c.id for c in answer.message.tool_calls]
    assert [m.content.startswith("<tool_error>") for m in results] == [False, True, False, True]


def test_an_unusable_answer_is_booked_before_it_is_understood(make: Make):
    """Moving `journal.spend` behind `_react` turns this red: the tool that dies there would hide the spend."""
    journal = FakeJournal()
    agent = make(call(bash("true")), journal=journal)

    def die(_deadline: float, _cancel: threading.Event) -> Completion:
        agent._workspace._session.dies = True
        return call(bash("true"))

    agent.model.answers = [die]
    with pytest.raises(SandboxUnavailable):
        agent.run()
    assert [spend[1] for spend in journal.spends] == [Usage(prompt=100, cached=40, completion=10)]
    assert journal.steps == []


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"steps": 2}, "steps: 2 of 2"),
        ({"tokens": 220}, "tokens: 220 of 220"),
        ({"usd": 0.0004}, "USD: 0.0004 of 0.0004"),
        ({"wall_seconds": 1e-9}, "wall time"),
    ],
)
def test_each_limit_ends_it_by_name_and_keeps_the_diff(make: Make, limits: dict[str, float], named: str):
    result = make(EDIT, LOOK, LOOK, say("done"), **limits).run()
    assert result.exit_status is ExitStatus.LIMITS_EXCEEDED
    assert result.reason.startswith(named)
    assert result.changed is (named != "wall time")


def test_the_answer_is_shortened_to_what_is_free_in_the_window(make: Make):
    model = FakeModel(EDIT, say("done"), first_tokens=400, tokens_per_message=50)
    make(model=model, context_tokens=2000).run()
    free = int(2000 * APPROXIMATE) - 450
    assert [sampling.max_tokens for sampling in model.samplings] == [free, free - 50]


def test_an_aborted_call_past_the_deadline_is_booked_and_ends_by_wall_time(make: Make):
    def slow(deadline: float, cancel: threading.Event) -> Completion:
        assert deadline == pytest.approx(time.monotonic() + 3600, abs=600)
        return say("half an ans", finish_reason="abort")  # as a model does that has waited until then

    journal = FakeJournal()
    result = make(EDIT, slow, journal=journal, wall_seconds=3600.0).run()
    assert result.exit_status is ExitStatus.LIMITS_EXCEEDED
    assert result.reason.startswith("wall time")
    assert result.changed
    assert len(journal.spends) == 2


def test_a_call_aborted_by_cancellation_is_booked_and_ends_as_cancelled(make: Make):
    def cancelled(_deadline: float, cancel: threading.Event) -> Completion:
        cancel.set()
        return say("", finish_reason="abort")

    journal = FakeJournal()
    result = make(EDIT, cancelled, journal=journal).run()
    assert result.exit_status is ExitStatus.CANCELLED
    assert result.changed
    assert len(journal.spends) == len(journal.steps) == 2


def test_cancelled_in_mid_step_the_command_stops_and_the_rest_is_answered_but_not_run(
    make: Make, session: FakeSession, tmp_path: Path
):
    started = tmp_path / "started"
    os.mkfifo(started)
    journal = FakeJournal()
    agent = make(call(bash(f"touch one; echo > {started}; sleep 60"), bash("touch never")), journal=journal)

    def cancel_once_started() -> None:
        started.read_bytes()
        agent._cancel.set()

    thread = threading.Thread(target=cancel_once_started)
    thread.start()
    result = agent.run()
    thread.join()
    assert result.exit_status is ExitStatus.CANCELLED
    assert result.seconds < 30
    assert not (session.root / "never").exists()
    first, second = journal.steps[0].actions
    assert "cancelled" in first.observation
    assert "not run" in second.observation
    assert result.changed, "what the first command did is kept"


def test_cancelled_by_the_journal_between_two_calls(make: Make, session: FakeSession):
    journal = FakeJournal(ends={2: Cancelled("a person cancelled it")})
    result = make(call(bash("touch one"), bash("touch two")), journal=journal).run()
    assert (result.exit_status, result.reason) == (ExitStatus.CANCELLED, "a person cancelled it")
    assert (session.root / "one").exists()
    assert not (session.root / "two").exists()
    assert [action.ok for action in journal.steps[0].actions] == [True, False]


@pytest.mark.parametrize(
    "unusable",
    [
        NOISE,
        NOISE.model_copy(update={"finish_reason": "length"}),
        say("half a sent", finish_reason="length"),
        NOISE.model_copy(update={"message": AssistantMessage(raw="[TOOL_CALLS]ba")}),
        call(("bash", '{"command": "l'), finish_reason="length"),
        call(("no_such_tool", "{}")),
    ],
)
def test_unusable_answers_in_a_row_end_it_and_are_billed(make: Make, unusable: Completion):
    journal = FakeJournal()
    result = make(*[unusable] * MAX_UNUSABLE, journal=journal).run()
    assert result.exit_status is ExitStatus.FORMAT_ERRORS
    assert len(journal.spends) == result.steps == MAX_UNUSABLE


def test_an_end_by_unusable_answers_keeps_the_diff(make: Make, session: FakeSession):
    result = make(EDIT, *[NOISE] * MAX_UNUSABLE).run()
    assert (result.exit_status, result.changed) == (ExitStatus.FORMAT_ERRORS, True)
    assert result.final_tree == session.snapshot()


def test_a_usable_answer_in_between_forgives(make: Make):
    result = make(NOISE, NOISE, LOOK, NOISE, NOISE, EDIT, say("done")).run()
    assert result.exit_status is ExitStatus.SUBMITTED


def test_an_answer_that_was_cut_off_is_named_so_to_the_model(make: Make):
    agent = make(call(("bash", '{"command": "l'), finish_reason="length"), EDIT, say("done"))
    agent.run()
    results = [m.content for m in agent.model.conversation.messages if isinstance(m, ToolMessage)]
    assert "cut off" in results[0]


def test_submitting_an_unchanged_tree_is_questioned_once_then_accepted(make: Make):
    agent = make(say("nothing to do"), say("really: works as documented"))
    result = agent.run()
    assert (result.exit_status, result.summary) == (ExitStatus.SUBMITTED, "really: works as documented")
    assert not result.changed
    told = [m.content for m in agent.model.conversation.messages if isinstance(m, UserMessage)]
    assert len(told) == 2
    assert "No file was changed" in told[1]


def test_a_model_that_is_down_passes_through_and_the_diff_is_known(make: Make, session: FakeSession):
    agent = make(EDIT, ModelUnavailable("503"))
    with pytest.raises(ModelUnavailable):
        agent.run()
    assert agent.model.conversation.closed
    assert agent.result.exit_status is ExitStatus.ERROR
    assert agent.result.final_tree == session.snapshot()


@pytest.mark.parametrize("where", ["spend", "step"])
def test_a_lost_lease_at_a_write_ends_it_there(make: Make, where: str):
    agent = make(EDIT, EDIT, journal=FakeJournal(refuses={where: LeaseLost("taken over")}))
    with pytest.raises(LeaseLost):
        agent.run()
    assert agent.model.conversation.closed
    assert len(agent.model.answers) == 1, "no further call"


def test_a_lost_lease_at_a_checkpoint_keeps_the_command_from_running(make: Make, session: FakeSession):
    agent = make(EDIT, journal=FakeJournal(ends={1: LeaseLost("taken over")}))
    with pytest.raises(LeaseLost):
        agent.run()
    assert not (session.root / "fix.py").exists()


def test_a_sandbox_that_dies_passes_through_and_is_never_shown_to_the_model(make: Make, session: FakeSession):
    agent = make(EDIT, call(bash("true")))
    known: list[str] = []
    run_bash = agent.model.answers.pop()

    def die(_deadline: float, _cancel: threading.Event) -> Completion:
        known.append(session.snapshot())
        session.dies = True
        return run_bash

    agent.model.answers.append(die)
    with pytest.raises(SandboxUnavailable, match="the sandbox is gone"):
        agent.run()
    assert agent.model.conversation.closed
    assert agent.result.final_tree == known[0], "the last tree that was saved"
    assert "could not be saved" in agent.result.reason
    assert not any("gone" in m.content for m in agent.model.conversation.messages)


def test_a_failing_last_snapshot_does_not_hide_the_first_error(make: Make, session: FakeSession):
    def die(_deadline: float, _cancel: threading.Event) -> Completion:
        session.dies = True
        raise ModelUnavailable("first")

    agent = make(EDIT, die)
    with pytest.raises(ModelUnavailable, match="first"):
        agent.run()


BIG = call(bash("truncate -s 1000 build.bin; echo more >>fix.py"))


def told(agent: Agent) -> list[str]:
    return [m.content for m in agent.model.conversation.messages if isinstance(m, UserMessage)][1:]


def test_what_can_not_be_saved_is_told_to_the_model_and_the_last_good_tree_kept(make: Make, session: FakeSession):
    session.most_bytes = 500
    journal = FakeJournal()
    agent = make(EDIT, BIG, LOOK, say("done"), journal=journal)
    result = agent.run()
    assert result.exit_status is ExitStatus.SUBMITTED
    assert result.reason == (
        "the model said that it is done; the last changes could not be saved: they are larger than a snapshot may be"
    )
    assert result.final_tree == journal.steps[0].tree
    assert [(step.tree is None, bool(step.note)) for step in journal.steps] == [
        (False, False),
        (True, True),
        (True, False),
        (True, False),
    ]
    assert len(journal.spends) == 4
    assert told(agent) == [journal.steps[1].note]
    assert "larger than a snapshot may be. The largest: one file. " in told(agent)[0]
    assert ".gitignore" in told(agent)[0]


def test_what_could_not_be_saved_is_saved_once_it_is_small_again(make: Make, session: FakeSession):
    session.most_bytes = 500
    journal = FakeJournal()
    result = make(BIG, call(bash("rm build.bin")), say("done"), journal=journal).run()
    assert [step.tree for step in journal.steps] == [None, result.final_tree, None]
    assert result.final_tree == session.snapshot()
    assert result.reason == "the model said that it is done"


def test_an_end_by_a_limit_says_that_the_last_changes_are_missing(make: Make, session: FakeSession):
    session.most_bytes = 500
    journal = FakeJournal()
    result = make(EDIT, BIG, journal=journal, steps=2).run()
    assert result.exit_status is ExitStatus.LIMITS_EXCEEDED
    assert result.reason.endswith("; the last changes could not be saved: they are larger than a snapshot may be")
    assert result.final_tree == journal.steps[0].tree


def test_a_snapshot_that_failed_is_not_tried_again_before_something_else_ran(make: Make, session: FakeSession):
    session.most_bytes = 500
    taken: list[str] = []
    snapshot = session.snapshot
    session.snapshot = lambda: (taken.append("taken"), snapshot())[1]  # type: ignore[method-assign]
    make(BIG, LOOK, LOOK, say("nothing"), say("done")).run()
    assert len(taken) == 2, "the base, and the one that failed"


def test_a_workspace_that_is_too_large_from_the_start_is_no_step_of_the_models(make: Make, session: FakeSession):
    session.most_bytes = 1
    agent = make(EDIT)
    with pytest.raises(NotSaved):
        agent.run()
    assert agent.meter.calls == 0


def test_a_model_that_can_not_be_opened(make: Make):
    class Down(FakeModel):
        def open(self, system, tools):
            raise ModelUnavailable("refused")

    agent = make(model=Down())
    with pytest.raises(ModelUnavailable):
        agent.run()
    assert agent.result.final_tree is None


def test_a_command_gets_no_more_time_than_the_run_has_left(make: Make):
    result = make(call(bash("sleep 60")), wall_seconds=1.0).run()
    assert result.exit_status is ExitStatus.LIMITS_EXCEEDED
    assert result.seconds < 30


def test_what_a_message_can_not_carry_is_replaced(make: Make, session: FakeSession):
    session.write("odd.txt", b"a\x1b[31m\xff" + b"x" * 9000 + b"\0")
    agent = make(call(("read_file", '{"path": "odd.txt"}')), EDIT, say("done"))
    agent.run()
    result = next(m.content for m in agent.model.conversation.messages if isinstance(m, ToolMessage))
    assert not {"\0", "\x1b"} & set(result)


def test_ten_calls_at_once(make: Make, session: FakeSession):
    result = make(call(*[bash(f"echo {i} >> log") for i in range(10)]), say("done")).run()
    assert session.read("log").split() == [str(i).encode() for i in range(10)]
    assert result.steps == 2
