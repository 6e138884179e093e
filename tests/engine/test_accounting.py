"""Where the real vLLM's time goes, call by call, and what a takeover finds in its cache."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner

from agent.tokens import TokenCounter
from agent.types import Completion, Sampling, ToolMessage, ToolSpec, UserMessage
from tests.engine_contract import endless, fresh, soon, until
from worker import compose
from worker.adapters.engine.conversation import EngineConversation, EngineModel
from worker.adapters.engine.port import Generated, Request
from worker.adapters.engine.vllm_host import VllmEngine
from worker.cli import cli
from worker.errors import ModelRejected

TOOL = ToolSpec(
    name="choose",
    description="Choose one.",
    parameters={
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,  # or a model without sense never comes to an end
    },
)


class Kept(EngineModel):
    """Its engine goes on when it is closed."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def model(engine: VllmEngine, tiny_model: Path) -> Kept:
    return Kept(engine, TokenCounter(tiny_model / "tekken.json"), "tiny")


def complete(conversation: EngineConversation, tokens: int = 50) -> Completion:
    return conversation.complete(Sampling(max_tokens=tokens), deadline=soon(), cancel=Event())


def test_shares_of_answered_aborted_and_failed_calls_add_up_to_the_busy_time(engine: VllmEngine) -> None:
    before = engine.load()
    cancel = Event()
    with ThreadPoolExecutor(12) as pool:
        aborted = [pool.submit(engine.generate, endless(), deadline=soon(), cancel=cancel) for _ in range(4)]
        until(lambda: engine.load().running == 4)
        whole = [
            pool.submit(engine.generate, Request(ids=fresh(64), max_tokens=60, exactly=True), deadline=soon())
            for _ in range(4)
        ]
        bad = [
            pool.submit(engine.generate, Request(ids=fresh(20), max_tokens=5, grammar="start: ("), deadline=soon()),
            pool.submit(engine.generate, Request(ids=fresh(40_000), max_tokens=1), deadline=soon()),
        ]
        assert all(isinstance(call.exception(60), ModelRejected) for call in bad)
        done: list[Generated] = [call.result(60) for call in whole]
        cancel.set()
        broken = [call.result(20) for call in aborted]
    assert {one.finish for one in done} == {"length"}
    assert {one.finish for one in broken} == {"abort"}
    assert all(one.gpu_seconds > 0 for one in (*done, *broken))
    failed = engine.load().failed_gpu_seconds - before.failed_gpu_seconds
    assert failed > 0
    booked = sum(one.gpu_seconds for one in (*done, *broken))
    until(lambda: engine.load().busy_seconds - before.busy_seconds == pytest.approx(booked + failed, abs=1e-6))


def test_an_aborted_call_is_told_with_its_share_and_times(model: Kept) -> None:
    conversation = model.open("Fix it.", [TOOL])
    conversation.add([UserMessage(content="The issue. " * 50)])
    done = conversation.complete(Sampling(max_tokens=20_000), deadline=time.monotonic() + 1, cancel=Event())
    if done.finish_reason != "abort":  # the model happened to end by itself
        pytest.skip("the answer ended before its deadline")
    assert done.usage.gpu_seconds is not None
    assert done.usage.gpu_seconds > 0.5
    assert done.times is not None
    assert 0 < done.times.first < done.times.first + done.times.decode <= done.seconds


@pytest.fixture
def taken_over(model: Kept) -> Iterator[tuple[EngineConversation, EngineConversation, Completion]]:
    """A conversation after its first answer, and the one that another worker makes of what was recorded."""
    here, there = model.open("Fix it.", [TOOL]), model.open("Fix it.", [TOOL])
    asked = [UserMessage(content=f"Issue {time.monotonic_ns()}: " + "it breaks. " * 40)]
    here.add(asked)
    done = complete(here, 200)
    there.add(asked)
    there.restore(done.message, done.generated)
    for conversation in (here, there):
        conversation.add(
            [ToolMessage(tool_call_id=one.id, name=one.name, content="ok") for one in done.message.tool_calls]
            or [UserMessage(content="Go on.")]
        )
    yield here, there, done
    here.close()
    there.close()


def test_the_next_call_after_a_takeover_finds_all_of_it_cached(
    model: Kept, engine: VllmEngine, taken_over: tuple[EngineConversation, EngineConversation, Completion]
) -> None:
    """Red where the answer's text is encoded anew: noise hardly ever has the ids that its text would have."""
    here, there, done = taken_over
    assert there._history.ids == here._history.ids
    anew: array[int] = array("i", model.counter.load().tokenizer.encode(done.message.content, False, False))
    assert done.generated is not None
    assert anew != done.generated.ids()[:-1], "this answer proves nothing"
    block = engine.facts.block_size
    known = (done.usage.prompt + done.usage.completion - 1) // block * block
    assert complete(there).usage.cached == known


def test_a_forced_call_is_one_of_its_tools_whatever_the_model(model: Kept) -> None:
    conversation = model.open("Fix it.", [TOOL])
    conversation.add([UserMessage(content="Choose.")])
    for _ in range(3):
        done = conversation.complete_call(Sampling(max_tokens=60), deadline=soon(), cancel=Event())
        (call,) = done.message.tool_calls
        assert (call.name, done.finish_reason, done.repairs) == ("choose", "tool_calls", ())
        assert json.loads(call.arguments)["n"] in {1, 2}
        conversation.add([ToolMessage(tool_call_id=call.id, name=call.name, content="ok")])


def test_doctor_asks_a_model_without_sense_and_quotes_it(model: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[str] = []
    count = model.count

    def heard(read: object) -> None:
        answered.append(read.content)  # type: ignore[attr-defined]
        count(read)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "count", heard)
    monkeypatch.setattr(compose, "make_model", lambda _: model)
    done = CliRunner().invoke(cli, ["doctor", "--model", "--json"], catch_exceptions=False)
    assert done.exit_code == 1, done.output
    report = json.loads(done.output)
    assert report["model"] == model.label
    assert report["sane"] is False
    questions = {one["name"]: one for one in report["questions"]}
    assert len(questions) == 12
    assert {one["verdict"] for one in questions.values()} <= {"pass", "fail"}
    assert questions["forced tool call"]["output"].startswith("set_alarm(")
    assert questions["addition"]["verdict"] == "fail"
    assert questions["addition"]["output"] == answered[0]
    assert all(one["prompt"] > 0 and one["seconds"] > 0 for one in questions.values())
