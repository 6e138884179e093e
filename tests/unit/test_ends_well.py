"""Steps that lead nowhere are named once and then end it; a change is looked at once more before it is proposed."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.loop import Agent
from agent.prompts import later
from agent.repeats import FAILING
from agent.resume import Progress
from agent.types import (
    Action,
    AgentResult,
    Completion,
    ExitStatus,
    Limits,
    Price,
    Sampling,
    Step,
    Task,
    ToolCall,
    Used,
    UserMessage,
)
from tests.fakes import FakeChanges, FakeJournal, FakeModel, FakeSession, call, say, workspace
from worker.errors import ModelUnavailable

TASK = Task(repository="acme/shop", issue_number=7, title="Sum is wrong", body="1 + 1 gives 3", base_commit="0" * 40)
DONE = [say("done"), say("done")]


def bash(command: str) -> Completion:
    return call(("bash", json.dumps({"command": command})))


def read(path: str) -> Completion:
    return call(("read_file", json.dumps({"path": path})))


def write(text: str) -> Completion:
    return call(("write_file", json.dumps({"path": "fix.py", "content": text, "overwrite": True})))


A, B, C = read("shop.py"), bash("cat shop.py; false"), call(("grep", '{"pattern": "x"}'))


class Run:
    """A trajectory with these answers, and one that goes on where its worker was lost."""

    def __init__(self, session: FakeSession) -> None:
        self._session = session
        self._base = session.snapshot()
        self.journal = FakeJournal()
        self.model = FakeModel()

    def __call__(
        self,
        *answers: object,
        model: FakeModel | None = None,
        before: Sequence[Step] = (),
        review: bool = False,
        objects: Sequence[str] = (),
        **limits: float,
    ) -> AgentResult:
        self._session.reset(self._base)
        self.journal, self.model = FakeJournal(), model or FakeModel(*answers)
        return Agent(
            self.model,
            self._session,
            self.journal,
            TASK,
            limits=Limits.model_validate(limits),
            price=Price(prompt=1.0),
            sampling=Sampling(),
            cancel=threading.Event(),
            changes=FakeChanges(self._session.git_dir, self._base, objects),
            review=review,
            progress=Progress(steps=tuple(before), used=Used(calls=len(before))),
        ).run()

    def lost(self, *answers: object, **more: object) -> list[Step]:
        with pytest.raises(ModelUnavailable):
            self(*answers, ModelUnavailable("gone"), **more)
        return self.journal.steps

    @property
    def notes(self) -> list[str]:
        return [step.note for step in self.journal.steps]

    @property
    def named(self) -> list[int]:
        """The steps whose note names a repetition."""
        return [n for n, note in enumerate(self.notes) if "You are repeating yourself" in note]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(workspace(tmp_path, {"shop.py": "x = 3\n"}))


def test_a_repeated_step_is_named_once_and_then_ends_it(run: Run):
    result = run(write("x"), A, A, A, A, A, A)
    assert run.named == [3]
    assert 'read_file {"path": "shop.py"}' in run.notes[3]
    assert run.model.conversation.messages.count(UserMessage(content=run.notes[3])) == 1
    assert result.exit_status is ExitStatus.STUCK
    assert len(run.journal.steps) == 6
    assert run.journal.steps[-1].exit_status is ExitStatus.STUCK
    assert "read_file" in result.reason
    assert "though it was told" in result.reason
    assert result.changed, "the diff so far is kept"


def test_a_model_that_listens_goes_on(run: Run):
    result = run(A, A, A, B, write("x"), *DONE)
    assert run.named == [2]
    assert result.exit_status is ExitStatus.SUBMITTED


@pytest.mark.parametrize("circle", [[A, B], [A, B, C]])
def test_alternating_steps_are_a_repetition(run: Run, circle: list[Completion]):
    """Red where only equal neighbours are compared."""
    result = run(*circle * 5)
    assert run.named == [3 * len(circle) - 1]
    assert ", in turn" in run.notes[run.named[0]]
    assert result.exit_status is ExitStatus.STUCK
    assert len(run.journal.steps) == 5 * len(circle)


def test_a_relapse_ends_it_also_after_something_else(run: Run):
    """What was named is remembered. Red where only the last steps count."""
    others = [bash(f"echo {n}") for n in range(12)]
    result = run(A, A, A, *others, A, C, A)
    assert run.named == [2]
    assert result.exit_status is ExitStatus.STUCK
    assert len(run.journal.steps) == 18


def test_the_same_call_after_a_change_or_with_another_result_is_no_repetition(run: Run):
    changing = [step for n in range(6) for step in (write(f"x = {n}"), A)]
    assert run(*changing, *DONE).exit_status is ExitStatus.SUBMITTED
    assert run.named == []
    counting = bash("echo x >> /tmp/devstral-fix-$PPID; wc -l < /dev/null; date +%s%N")
    assert run(*[counting] * 6, *DONE).exit_status is ExitStatus.SUBMITTED
    assert run.named == []


def test_times_and_addresses_are_no_news(run: Run):
    """Red without the replacement in the signature."""
    run(*[bash('echo "5 passed in 0.$RANDOM s at 0x$RANDOM"; date +%H:%M:%S')] * 3, *DONE)
    assert run.named == [2]


def test_calls_that_all_fail_are_named_and_then_end_it(run: Run):
    failing = [read(f"missing{n}.py") for n in range(2 * FAILING)]
    result = run(*failing)
    assert [n for n, note in enumerate(run.notes) if "only calls that failed" in note] == [FAILING - 1]
    assert result.exit_status is ExitStatus.STUCK
    assert len(run.journal.steps) == 2 * FAILING
    assert result.reason == f"{FAILING} answers in a row held only calls that failed, for the second time"


def test_one_call_that_works_is_no_failing_row(run: Run):
    row = [read(f"missing{n}.py") for n in range(FAILING - 1)]
    assert run(*row, A, *row, *DONE).exit_status is ExitStatus.SUBMITTED
    assert not any("only calls that failed" in note for note in run.notes)


@pytest.mark.parametrize("lost_after", [1, 2, 3, 4])
def test_a_takeover_remembers_what_was_named(run: Run, lost_after: int):
    """Red where `replay` does not tell the memory."""
    steps = run.lost(*[A] * lost_after)
    result = run(*[A] * (5 - lost_after), before=steps)
    assert result.exit_status is ExitStatus.STUCK
    assert len(steps) + len(run.journal.steps) == 5


def test_looking_again_after_a_new_beginning_is_no_repetition(run: Run):
    model = FakeModel(*[A] * 6, *DONE, tokens_per_message=4000)  # two reads use the window up
    result = run(model=model, context_tokens=14_000)
    assert result.exit_status is ExitStatus.SUBMITTED, result.reason
    assert [n for n, step in enumerate(run.journal.steps) if step.compacted] == [1, 3, 5]
    assert run.named == []


def test_a_change_is_reviewed_once_before_it_is_proposed(run: Run):
    result = run(write("x = 1\n"), say("first"), write("x = 2\n"), say("second"), review=True, objects=["fix.py: why"])
    assert result.exit_status is ExitStatus.SUBMITTED
    assert result.summary == "second"
    review = run.notes[1]
    assert "+x = 1" in review
    assert "A fix.py" in review
    assert "This change will be refused as it is: fix.py: why" in review
    assert [bool(note) for note in run.notes] == [False, True, False, False]


def test_nothing_is_reviewed_where_nothing_changed(run: Run):
    run(*DONE, review=True)
    assert "as a reviewer would" not in "".join(run.notes)
    assert "No file was changed" in run.notes[0]


def test_a_takeover_does_not_ask_for_a_second_review(run: Run):
    steps = run.lost(write("x = 1\n"), say("first"), review=True)
    result = run(say("second"), before=steps, review=True)
    assert result.summary == "second"


def test_the_review_of_a_giant_change_is_bounded(run: Run):
    run(write("x = 1\n" * 10_000), *DONE, review=True, context_tokens=16_384)
    assert len(run.notes[1]) < 16_384
    assert "+x = 1\n" in run.notes[1]


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"steps": 10}, "steps: 9 of 10"), ({"tokens": 1100}, "tokens: 990 of 1100"), ({"usd": 0.001}, "money: 0.0009")],
)
def test_what_is_nearly_used_up_is_said_once(run: Run, limits: dict[str, float], said: str):
    many = [bash(f"echo {n}") for n in range(20)]
    result = run(*many, **limits)
    assert result.exit_status is ExitStatus.LIMITS_EXCEEDED
    told = [note for note in run.notes if note]
    assert len(told) == 1
    assert said in told[0]
    assert "Bring it to its end now" in told[0]


def test_the_words_for_people_name_the_calls():
    assert later.call(_action("bash", '{"command":\n "ls"}')) == 'bash {"command": "ls"}'
    assert later.call(_action("bash", "x" * 500)).endswith("x...")


def _action(name: str, arguments: str) -> Action:
    return Action(call=ToolCall(id="a", name=name, arguments=arguments), observation="", ok=True, seconds=0.0)
