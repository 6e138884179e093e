"""Grammars for calls on the real vLLM: what comes out is a call that can be run; and what that costs."""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from agent.tokens import TokenCounter
from agent.tools import default_tools
from agent.tools.base import spec
from agent.types import Limits, Sampling, ToolSpec, UserMessage
from tests.engine_contract import fresh, soon
from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.grammar import Marks, forced_call, forced_text, one_of
from worker.adapters.engine.port import Request
from worker.adapters.engine.vllm_host import VllmEngine

SHORT = {"type": "string", "maxLength": 8}
TOOLS = (
    ToolSpec(
        name="read_file",
        description="Read.",
        parameters={
            "type": "object",
            "properties": {"path": SHORT},
            "required": ["path"],
            "additionalProperties": False,
        },
    ),
    ToolSpec(
        name="count",
        description="Count.",
        parameters={
            "type": "object",
            "properties": {"n": {"enum": [1, 2]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    ),
)


@pytest.fixture(scope="module")
def model(engine: VllmEngine, tiny_model: Path) -> EngineModel:
    return EngineModel(engine, TokenCounter(tiny_model / "tekken.json"), "tiny")


@pytest.mark.parametrize("arguments", [{"path": "a b/ç.py"}, {"text": 'one\n"two"\\\t☃'}, {}])
def test_a_forced_call_arrives_as_it_was_written(model: EngineModel, arguments: dict[str, str]) -> None:
    conversation = model.open("s", TOOLS)
    conversation.add([UserMessage(content="u")])
    grammar = forced_call("read_file", arguments, Marks.of(model.reader))
    done = conversation.complete(Sampling(max_tokens=200), deadline=soon(), cancel=Event(), grammar=grammar)
    (call,) = done.message.tool_calls
    assert (done.finish_reason, call.name, json.loads(call.arguments)) == ("tool_calls", "read_file", arguments)


def test_a_forced_text_arrives_without_a_call(model: EngineModel) -> None:
    conversation = model.open("s", TOOLS)
    conversation.add([UserMessage(content="u")])
    done = conversation.complete(
        Sampling(max_tokens=99), deadline=soon(), cancel=Event(), grammar=forced_text('It is "done".\nSo.')
    )
    assert (done.finish_reason, done.message.content) == ("stop", 'It is "done".\nSo.')


def test_noise_under_the_general_grammar_is_one_valid_call(model: EngineModel) -> None:
    grammar, names = one_of(TOOLS, Marks.of(model.reader)), set()
    for number in range(12):
        conversation = model.open(f"system {number}", TOOLS)
        conversation.add([UserMessage(content=f"user {number}")])
        sampling = Sampling(max_tokens=200, temperature=1.0)
        done = conversation.complete(sampling, deadline=soon(), cancel=Event(), grammar=grammar)
        (call,) = done.message.tool_calls
        arguments = json.loads(call.arguments)
        assert arguments in ({"n": 1}, {"n": 2}) if call.name == "count" else len(arguments["path"]) <= 8
        names.add(call.name)
    assert names <= {"count", "read_file"}


def test_what_a_grammar_costs(model: EngineModel) -> None:
    """No goal: printed, for the report. The service's own tools; the first call compiles."""
    grammar = one_of([spec(tool) for tool in default_tools(Limits())], Marks.of(model.reader))

    def call(grammar: str | None) -> tuple[float, int]:
        started = time.monotonic()
        done = model.engine.generate(
            Request(ids=fresh(200), max_tokens=64, temperature=1.0, grammar=grammar, exactly=grammar is None),
            deadline=soon(60),
        )
        return (time.monotonic() - started) * 1e3, len(done.ids)

    first, _ = call(grammar)
    print(f"first call under the grammar: {first:.0f} ms")
    for at_once in (1, 16):
        with ThreadPoolExecutor(at_once) as pool:
            free, bound = (list(pool.map(call, [which] * max(15, 3 * at_once))) for which in (None, grammar))
        each = [statistics.median(ms / tokens for ms, tokens in calls) for calls in (free, bound)]
        print(f"{at_once} at once, ms a token: free {each[0]:.2f}, under the grammar {each[1]:.2f}")
        assert each[1] < 20 * each[0]
