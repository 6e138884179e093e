"""Going on from recorded steps: the conversation, the workspace and the limits stand where they stood."""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import prompts
from agent.errors import Cancelled
from agent.generated import GeneratedIds
from agent.loop import MAX_UNUSABLE, Agent
from agent.resume import Progress, opening
from agent.types import (
    AssistantMessage,
    Completion,
    ExitStatus,
    Limits,
    Price,
    Sampling,
    Task,
    Usage,
    Used,
)
from tests.fakes import FakeChanges, FakeJournal, FakeModel, FakeSession, call, say, workspace
from worker.errors import LeaseLost, ModelUnavailable

TASK = Task(repository="acme/shop", issue_number=7, title="Sum is wrong", body="1 + 1 gives 3", base_commit="0" * 40)
PRICE = Price(prompt=1.0, completion=10.0)
EDIT = call(("write_file", json.dumps({"path": "fix.py", "content": "x = 2\n"})))
LOOK = call(("read_file", '{"path": "shop.py"}'))
RAW = "[TOOL_CALLS]ba\x1b"
UNPARSED = Completion(
    message=AssistantMessage(content=" two\x07\n", raw=RAW), usage=Usage(prompt=100), finish_reason="stop", seconds=0
)


def bash(command: str) -> Completion:
    return call(("bash", json.dumps({"command": command})))


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(tmp_path, {"shop.py": "x = 3\n"})


Make = Callable[..., Agent]


@pytest.fixture
def make(session: FakeSession, tmp_path: Path) -> Make:
    base = session.snapshot()

    def made(
        *answers: object,
        journal: FakeJournal,
        progress: Progress = Progress(),  # noqa: B008
        model: FakeModel | None = None,
        **limits: float,
    ) -> Agent:
        session.reset(base)  # a new sandbox begins at the base
        return Agent(
            model or FakeModel(*answers),
            session,
            journal,
            TASK,
            limits=Limits.model_validate(limits),
            price=PRICE,
            sampling=Sampling(),
            cancel=threading.Event(),
            changes=FakeChanges(session.git_dir, base),
            review=False,
            progress=progress,
        )

    return made


def progress_of(journal: FakeJournal) -> Progress:
    """What a store would give back of a journal."""
    usage = sum((spend[1] for spend in journal.spends), Usage())
    used = Used(
        calls=len(journal.spends),
        usage=usage,
        usd=sum(spend[2] for spend in journal.spends),
        seconds=journal.steps[-1].elapsed if journal.steps else 0.0,
    )
    return Progress(steps=tuple(journal.steps), used=used)


def interrupted(make: Make, *answers: object, **limits: float) -> tuple[FakeJournal, Agent]:
    """A trajectory whose worker was lost after these answers."""
    journal = FakeJournal()
    agent = make(*answers, ModelUnavailable("gone"), journal=journal, **limits)
    with pytest.raises(ModelUnavailable):
        agent.run()
    return journal, agent


def test_the_conversation_is_the_same_to_the_letter(make: Make):
    turns = [LOOK, UNPARSED, call(("nonsense", "{}"), ("bash", '{"command": "echo \x07 hi"}')), say("nothing to do")]
    journal, before = interrupted(make, *turns)
    after = make(EDIT, say("done"), journal=FakeJournal(), progress=progress_of(journal))
    result = after.run()
    told = before.model.conversation.messages
    assert after.model.conversation.messages[: len(told)] == told
    assert any(isinstance(m, AssistantMessage) and m.raw == RAW for m in told)
    assert told[-1].content == prompts.nudge("nothing_changed")
    assert result.exit_status is ExitStatus.SUBMITTED


def test_the_generated_ids_are_given_back(make: Make):
    """Red where the replay gives the answers alone."""
    kept = GeneratedIds.of(array("i", [9, 130_000, 2]), "v1")
    journal, _ = interrupted(make, LOOK.model_copy(update={"generated": kept}), EDIT)
    after = make(say("done"), journal=FakeJournal(), progress=progress_of(journal))
    after.run()
    assert after.model.conversation.restored == [kept, None]


def test_nothing_is_executed_again_and_the_workspace_is_the_last_recorded_one(
    make: Make, session: FakeSession, tmp_path: Path
):
    """Running the recorded calls again in `replay` turns this red."""
    outside = tmp_path / "outside"
    journal, _ = interrupted(make, bash(f"echo once >> {outside}; echo a > made.txt"), bash(f"echo once >> {outside}"))
    later = FakeJournal()
    result = make(bash("cat made.txt"), say("done"), journal=later, progress=progress_of(journal)).run()
    assert outside.read_text() == "once\nonce\n"
    assert later.steps[0].actions[0].observation.count("a\n")
    assert [step.index for step in later.steps] == [2, 3]
    assert result.final_tree == journal.steps[0].tree
    assert result.changed, "measured against the base, not against where it went on"


def test_what_was_used_counts_on(make: Make):
    journal, _ = interrupted(make, LOOK, LOOK, steps=4)
    progress = progress_of(journal)
    # One more call was booked whose step was lost with its worker.
    used = progress.used.model_copy(update={"calls": 3, "seconds": 30.0})
    later = FakeJournal()
    agent = make(LOOK, LOOK, journal=later, progress=progress.model_copy(update={"used": used}), steps=4)
    result = agent.run()
    assert result.reason.startswith("steps: 4 of 4")
    assert [spend[0] for spend in later.spends] == [3]
    assert [step.index for step in later.steps] == [2]
    assert result.usage == Usage(prompt=300, cached=120, completion=30)
    assert result.usd == pytest.approx(3 * (100 + 100) / 1e6)
    assert 30 <= result.seconds < 3600
    assert later.steps[0].elapsed >= 30


def test_time_that_was_used_ends_it(make: Make):
    journal, _ = interrupted(make, EDIT)
    used = progress_of(journal).used.model_copy(update={"seconds": 3600.0})
    agent = make(journal=FakeJournal(), progress=Progress(steps=tuple(journal.steps), used=used), wall_seconds=3600.0)
    result = agent.run()
    assert (result.exit_status, result.changed) == (ExitStatus.LIMITS_EXCEEDED, True)


def test_the_question_about_an_unchanged_tree_is_asked_once(make: Make):
    journal, _ = interrupted(make, say("nothing to do"))
    result = make(say("really"), journal=FakeJournal(), progress=progress_of(journal)).run()
    assert (result.exit_status, result.summary) == (ExitStatus.SUBMITTED, "really")


@pytest.mark.parametrize("unusable", [UNPARSED, call(("nonsense", "{}")), bash("x").model_copy()])
def test_unusable_answers_are_counted_over_the_border(make: Make, unusable: Completion):
    journal, _ = interrupted(make, *[unusable] * (MAX_UNUSABLE - 1))
    again = make(unusable, EDIT, say("done"), journal=FakeJournal(), progress=progress_of(journal))
    usable = unusable.message.tool_calls and unusable.message.tool_calls[0].name == "bash"
    assert again.run().exit_status is (ExitStatus.SUBMITTED if usable else ExitStatus.FORMAT_ERRORS)


def test_an_end_that_was_recorded_is_the_end_again_without_a_call(make: Make):
    for answers, limits in (([EDIT, say("Fixed.")], {}), ([UNPARSED] * MAX_UNUSABLE, {})):
        journal = FakeJournal()
        first = make(*answers, journal=journal, **limits).run()
        later = FakeJournal()
        again = make(journal=later, progress=progress_of(journal)).run()
        same = {"seconds": first.seconds}
        assert again.model_copy(update=same) == first.model_copy(update=same)
        assert later.order == []


def test_a_cancelled_end_is_none_for_a_run_that_may_go_on(make: Make, session: FakeSession):
    journal = FakeJournal(ends={2: Cancelled("the worker stops")})
    make(call(("bash", '{"command": "true"}'), ("bash", '{"command": "touch two"}')), journal=journal).run()
    result = make(EDIT, say("done"), journal=FakeJournal(), progress=progress_of(journal)).run()
    assert result.exit_status is ExitStatus.SUBMITTED
    assert not (session.root / "two").exists(), "the model was told that it was not run"


def test_an_aborted_answer_is_no_part_of_the_history(make: Make):
    def aborted(_deadline: float, cancel: threading.Event) -> Completion:
        cancel.set()
        return say("half", finish_reason="abort")

    journal = FakeJournal()
    make(LOOK, aborted, journal=journal).run()
    again = make(EDIT, say("done"), journal=FakeJournal(), progress=progress_of(journal))
    assert again.run().exit_status is ExitStatus.SUBMITTED
    assert not any(m.content == "half" for m in again.model.conversation.messages)


def test_it_can_be_gone_on_from_twice(make: Make):
    first, _ = interrupted(make, LOOK)
    second = FakeJournal(refuses={})
    agent = make(EDIT, LeaseLost("taken over"), journal=second, progress=progress_of(first))
    with pytest.raises(LeaseLost):
        agent.run()
    both = FakeJournal()
    both.steps, both.spends = first.steps + second.steps, first.spends + second.spends
    last = FakeJournal()
    result = make(say("done"), journal=last, progress=progress_of(both)).run()
    assert (result.exit_status, result.steps, result.changed) == (ExitStatus.SUBMITTED, 3, True)
    assert [step.index for step in last.steps] == [2]


def test_the_opening_is_all_that_a_model_is_told_first():
    told = opening(TASK, Limits())
    assert told == opening(TASK, Limits(steps=7))
    assert told != opening(TASK.model_copy(update={"body": "else"}), Limits())
    long = TASK.model_copy(update={"body": "word " * 5000})
    assert opening(long, Limits()) != opening(long, Limits(context_tokens=1000)), "the issue is shown shortened"


def test_a_question_beside_which_something_else_was_said_was_asked_all_the_same(make: Make, session: FakeSession):
    session.most_bytes = 500
    first = FakeJournal(ends={3: Cancelled()})
    make(bash("truncate -s 1000 build.bin"), say("done"), journal=first).run()
    not_saved, question = [step.note for step in first.steps if step.note]
    second = FakeJournal()
    begun = progress_of(first)
    joined = begun.steps[-1].model_copy(update={"note": f"{question}\n\n{not_saved}"})
    agent = make(say("done"), journal=second, progress=begun.model_copy(update={"steps": (*begun.steps[:-1], joined)}))
    assert agent.run().exit_status is ExitStatus.SUBMITTED
    assert [step.note for step in second.steps] == [""]
