"""What a step costs beside the model: a quick form of `make bench-agent`, and that it follows the new tokens."""

from __future__ import annotations

import random
import statistics
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from threading import Event

import pytest

from agent.generated import GeneratedIds
from agent.tokens import TokenCounter, TokenHistory
from agent.types import AssistantMessage, Sampling, ToolMessage, UserMessage
from tests.fakes_engine import AnsweringEngine
from worker.adapters.engine.conversation import EngineModel
from worker.bench import overhead, overhead_loop
from worker.bench.corpus import Corpus
from worker.bench.overhead_steps import Desk, desk, fleet

GENEROUS = 0.1  # seconds a step, on a machine that does much else


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter()


@pytest.mark.parametrize("paced", [False, True])
def test_a_step_is_measured_without_the_engines_answer(counter: TokenCounter, *, paced: bool) -> None:
    with fleet(counter, trajectories=3, context=9000) as small:
        phase = small.paced(0.1, answer_seconds=0.5, tool_seconds=0.01) if paced else small.flat_out(3)
    assert len(phase.steps) >= 3
    assert 9000 < phase.context < 20_000
    assert 0 < phase.cpu < GENEROUS
    assert all(0 < step.encode + step.call < GENEROUS for step in phase.steps)
    assert 0 < statistics.median(step.wall for step in phase.steps) < (0.4 if paced else 1.0)


def test_a_turn_of_the_loop_is_measured_without_its_commands(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = overhead_loop.Still.printed

    def slowly(self: overhead_loop.Still) -> str:
        time.sleep(2 * GENEROUS)  # the command itself: what must not be counted
        return printed(self)

    monkeypatch.setattr(overhead_loop.Still, "printed", slowly)
    turns = overhead_loop.turns(counter, context=9000, steps=3)
    assert len(turns) >= 3
    assert all(0 < turn.loop < GENEROUS and 0 < turn.call < GENEROUS for turn in turns)


def test_all_figures_are_written(counter: TokenCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TRAJECTORIES": 2,
        "CONTEXT": 9500,
        "SHORT": 9000,
        "STEPS": 2,
        "LOOP_STEPS": 2,
        "ANSWER_SECONDS": 0.01,
        "PACED_SECONDS": 0.1,
        "TOOL_SECONDS": 0.01,
    }.items():
        monkeypatch.setattr(overhead, name, value)
    found = {figure.figure: figure for figure in overhead.measure(counter)}
    goals = [figure.figure for figure in found.values() if figure.goal == 5.0]
    assert len(goals) == 5
    assert all(figure.value > 0 for figure in found.values())


def test_an_engine_is_given_one_list_that_grows_with_the_history(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    since = TokenHistory.since

    def counted(self: TokenHistory, start: int) -> array[int]:
        found = since(self, start)
        copied.append(len(found))
        return found

    monkeypatch.setattr(TokenHistory, "since", counted)
    engine = AnsweringEngine([Corpus(counter).answer(20, "a").tolist()])
    talk = EngineModel(engine, counter, "m").open("Fix it.", ())
    talk.add([UserMessage(content="The sum is wrong. " * 500)])
    lists = []
    for step in range(4):
        answer = talk.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
        request = engine.requests[-1]
        assert request.as_list() == request.ids.tolist()
        lists.append(request.as_list())
        call = answer.message.tool_calls[0]
        talk.add([ToolMessage(tool_call_id=call.id, name="bash", content=f"step {step}")])
        # The second of two remarks is merged with the first: the history loses its end, and the list with it.
        talk.add([UserMessage(content="Go on."), UserMessage(content="Be quick.")])
    assert all(one is lists[0] for one in lists)
    assert copied[0] > 2000
    assert max(copied[1:]) < 100


def _steps(opened: Desk, tokens: int) -> Iterator[float]:
    """CPU seconds of one step after the other, after a history of so many tokens."""
    noise = random.Random(0)
    ids = array("i", (noise.randrange(2000, 60_000) for _ in range(tokens)))
    with closing(opened.model.open("Fix it.", ())) as talk:
        talk.add([UserMessage(content="The sum is wrong.")])
        talk.restore(AssistantMessage(content="…"), GeneratedIds.of(ids, opened.model.vocabulary))
        talk.add([UserMessage(content="Go on.")])
        while True:
            pretended, began = opened.backend.cpu, time.process_time()
            answer = talk.complete(Sampling(), deadline=time.monotonic() + 60, cancel=Event())
            call = answer.message.tool_calls[0]
            talk.add([ToolMessage(tool_call_id=call.id, name="bash", content="One line.")])
            yield time.process_time() - began - (opened.backend.cpu - pretended)


def test_a_step_costs_the_same_after_a_long_history(counter: TokenCounter) -> None:
    """CPU time of all threads; making a list of 240,000 ids alone takes 7 ms or more here."""
    with desk(counter, kv_tokens=1 << 20) as opened:
        short, long = (_steps(opened, tokens) for tokens in (2000, 240_000))
        pairs = [(next(short), next(long)) for _ in range(15)]
    few, many = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert many < few + 0.003, f"{1000 * few:.2f} ms after 2,000 tokens, {1000 * many:.2f} ms after 240,000"
