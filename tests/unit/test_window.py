"""A window of any size: what each part may take, and a conversation that begins anew when it is used up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.loop import Agent
from agent.prompts import later
from agent.resume import Progress
from agent.tokens import TokenCounter
from agent.types import ExitStatus, Limits, Price, Sampling, Task, Usage, Used, UserMessage
from agent.window import APPROXIMATE, Window, share_out
from tests.fakes import FakeChanges, FakeJournal, FakeModel, FakeSession, call, say, workspace
from worker.errors import ModelUnavailable

SMALL = 16_384
TASK = Task(
    repository="acme/shop",
    issue_number=7,
    title="Sum of an empty cart is wrong",
    body="total([]) gives 3 where 0 is due.",
    base_commit="0" * 40,
    files=tuple(f"shop/part_{n}.py" for n in range(300)),
    instructions="Keep functions short.\n" * 400,
)
COUNTER = TokenCounter()
NOTES = "The fault is in cart.py: total() begins at 3."


@pytest.mark.parametrize("tokens", [16_384, 32_768, 131_072, 262_144])
def test_every_part_has_its_room(tokens: int):
    window = Window.of(Limits(context_tokens=tokens), 4096)
    for beginning in (window.opening, window.recap):
        worst = beginning + window.results // 2 + 2048  # one answer's results at two bytes a token, and the answer
        assert not window.full(beginning)
        assert not window.over(worst), "after one step there is still room for notes"
    assert window.tokens - window.notes - window.request >= window.recap + window.answer
    assert window.full(tokens - window.notes - window.request - window.answer + 1)


def test_a_window_counted_by_another_vocabulary_is_taken_as_smaller():
    limits = Limits(context_tokens=SMALL)
    assert Window.of(limits, 4096, approximate=True).tokens == int(SMALL * APPROXIMATE)


@pytest.mark.parametrize(
    ("sizes", "total", "given"),
    [
        ([10, 20, 30], 100, [10, 20, 30]),
        ([10, 5000, 5000], 1010, [10, 500, 500]),
        ([5000, 10, 700], 1010, [500, 10, 500]),
        ([], 10, []),
        ([500] * 10, 100, [64] * 10),
    ],
)
def test_room_is_shared_out_so_that_small_results_stay_whole(sizes: list[int], total: int, given: list[int]):
    assert share_out(sizes, total) == given


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    source = "".join(f"def part_{n}(cart):\n    return sum(cart) + {n}  # ünïcode\n\n\n" for n in range(1500))
    return workspace(tmp_path, {"cart.py": "def total(cart):\n    return sum(cart, 3)\n", "long.py": source})


Make = Callable[..., Agent]


@pytest.fixture
def make(session: FakeSession) -> Make:
    base = session.snapshot()

    def made(
        model: FakeModel,
        journal: FakeJournal,
        *,
        progress: Progress = Progress(),  # noqa: B008
        task: Task = TASK,
        **limits: float,
    ) -> Agent:
        session.reset(base)
        return Agent(
            model,
            session,
            journal,
            task,
            limits=Limits.model_validate({"context_tokens": SMALL} | limits),
            price=Price(prompt=1.0),
            sampling=Sampling(max_tokens=2048),
            cancel=threading.Event(),
            changes=FakeChanges(session.git_dir, base),
            review=True,
            progress=progress,
        )

    return made


def look(n: int) -> object:
    return call(("read_file", json.dumps({"path": "long.py", "offset": 100 * n, "limit": 100})))


BLOCK = "<<<<<<< SEARCH\nsum(cart, 3)\n=======\nsum(cart)\n>>>>>>> REPLACE"
FIX = call(("search_replace", json.dumps({"file_path": "cart.py", "content": BLOCK})))
TEST = call(("bash", '{"command": "python3 -c \\"from cart import total; print(total([]))\\""}'))


PLAN = call(
    ("todo", '{"action": "write", "todos": [{"id": "1", "content": "look at long.py", "status": "in_progress"}]}')
)


class Working(FakeModel):
    """Looks around for `looks` steps, writes notes when it is asked to, then fixes, tests and submits."""

    def __init__(self, looks: int, *, fix_at: int = 0) -> None:
        super().__init__(counter=COUNTER)
        self.script = [look(n) for n in range(looks)]
        self.script.insert(fix_at, FIX)
        self.script.insert(0, PLAN)
        self.script += [TEST, say("Fixed: it began at 3."), say("Fixed: it began at 3. Reviewed.")]
        self.answers = [self._next] * 10_000

    def _next(self, deadline: float, cancel: threading.Event) -> object:
        del deadline, cancel
        assert self.conversation
        last = self.conversation.messages[-1]
        if isinstance(last, UserMessage) and last.content == later.take_notes():
            return say(NOTES)
        return self.script.pop(0)


def test_a_whole_run_in_a_window_of_16k_begins_anew_and_still_knows_its_task(make: Make):
    """By the real tokenizer. Red without `full`, and where a recap lacks what it must say."""
    model, journal = Working(56), FakeJournal()
    result = make(model, journal).run()
    assert result.exit_status is ExitStatus.SUBMITTED, result.reason
    assert max(p + s.max_tokens for p, s in zip(model.prompts, model.samplings, strict=True)) <= SMALL
    assert min(s.max_tokens for s in model.samplings) >= 1024, "an answer always has room"
    compacted = [step for step in journal.steps if step.compacted]
    assert len(compacted) >= 3
    for step, conversation in zip(compacted, model.conversations[1:], strict=True):
        begun = conversation.messages[0]
        assert begun == UserMessage(content=step.compacted)
        for known in (
            TASK.title,
            TASK.body,
            NOTES,
            "look at long.py",  # its plan
            "-    return sum(cart, 3)\n+    return sum(cart)",
            "Keep functions",
        ):
            assert known in begun.content
        assert conversation.messages[1] != begun
    assert len(journal.spends) == len(journal.steps), "taking notes is a step, and is paid for"


def test_within_one_conversation_history_only_grows(make: Make):
    model = Working(56)
    make(model, FakeJournal()).run()
    assert len(model.conversations) > 3
    assert all(one.closed for one in model.conversations)
    fallen = sum(after < before for before, after in zip(model.prompts, model.prompts[1:], strict=False))
    assert fallen == len(model.conversations) - 1


@pytest.mark.parametrize("lost_after", range(9, 18))
def test_a_takeover_goes_on_from_the_last_beginning(make: Make, lost_after: int):
    """The same prompts to the token as a run that was not interrupted, wherever in it the worker was lost."""
    whole, journal = Working(17, fix_at=3), FakeJournal()
    make(whole, journal).run()
    assert 9 < next(n for n, step in enumerate(journal.steps) if step.compacted) < 17
    first, before = Working(17, fix_at=3), FakeJournal()
    first.answers[lost_after:] = [ModelUnavailable("gone")]
    with pytest.raises(ModelUnavailable):
        make(first, before).run()
    second, after = Working(0), FakeJournal()
    second.script = first.script
    used = Used(calls=len(before.spends), usage=sum((s[1] for s in before.spends), Usage()))
    result = make(second, after, progress=Progress(steps=tuple(before.steps), used=used)).run()
    assert result.exit_status is ExitStatus.SUBMITTED
    assert [*first.prompts[:lost_after], *second.prompts] == whole.prompts
    assert [s.note for s in (*before.steps, *after.steps)] == [s.note for s in journal.steps]


def test_ten_large_results_of_one_answer_share_the_room(make: Make, session: FakeSession):
    many = call(*[("read_file", json.dumps({"path": "long.py", "offset": 90 * n})) for n in range(10)])
    model, journal = FakeModel(many, FIX, say("done"), say("done"), counter=COUNTER), FakeJournal()
    agent = make(model, journal)
    assert agent.run().exit_status is ExitStatus.SUBMITTED
    shown = [action.observation for action in journal.steps[0].actions]
    assert len(shown) == 10
    assert sum(len(text.encode()) for text in shown) <= SMALL // 2 + 10 * 80
    assert all("omitted" in text or "left out" in text or "..." in text for text in shown)


def test_results_that_leave_no_room_for_notes_begin_it_anew_without(make: Make):
    """A model whose messages are dearer than any bound foresaw."""
    model, journal = FakeModel(FIX, look(1), look(2), say("done"), say("done"), tokens_per_message=5500), FakeJournal()
    model.first_tokens = 0
    result = make(model, journal, context_tokens=20_000).run()
    assert result.exit_status is ExitStatus.SUBMITTED, result.reason
    assert journal.steps[1].compacted
    assert "+    return sum(cart)" in journal.steps[1].compacted
    assert "Your notes" not in journal.steps[1].compacted
    assert "read_file" in journal.steps[1].compacted, "the last call and its result are told"


def test_an_opening_that_is_too_long_is_cut_to_what_fits(make: Make):
    many = TASK.model_copy(update={"instructions": "§ 1 ∑∏√ ÄÖÜ 漢字\n" * 6000, "body": "漢字の問題" * 3000})
    model = FakeModel(FIX, say("done"), say("done"), counter=COUNTER)
    result = make(model, FakeJournal(), task=many).run()
    assert result.exit_status is ExitStatus.SUBMITTED, result.reason
    assert len(model.conversations) > 1, "the usual size did not fit"
    assert model.prompts[0] <= SMALL * 3 // 8


def test_a_window_that_holds_no_opening_is_a_limit(make: Make):
    journal = FakeJournal()
    result = make(FakeModel(FIX, counter=COUNTER), journal, context_tokens=2000).run()
    assert result.exit_status is ExitStatus.LIMITS_EXCEEDED
    assert result.reason.startswith("context window: an opening of ")
    assert not journal.steps


def test_the_first_words_are_known_before_the_first_call(make: Make):
    model, seen = Working(0), []
    agent = make(model, FakeJournal())
    agent.run(lambda: seen.append((agent.prompt, list(model.prompts))))
    assert seen == [(model.conversations[0].messages[0].content, [])]
