"""Reading answers from token ids: the format as it should be, and every deviation that was reported of servers."""

from __future__ import annotations

import time
from array import array
from threading import Event

import pytest

from agent.protocols import CallsForced
from agent.tokens import TokenCounter
from agent.types import Sampling, ToolMessage, ToolSpec, UserMessage
from tests.fakes_engine import AnsweringEngine
from worker.adapters.engine.answer import AnswerReader, Repair
from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.grammar import Marks, one_of

TOOLS = (ToolSpec(name="bash", description="Run it.", parameters={"type": "object", "properties": {}}),)


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter()


@pytest.fixture(scope="module")
def reader(counter: TokenCounter) -> AnswerReader:
    return AnswerReader(counter.load())


def ids(reader: AnswerReader, *parts: str) -> list[int]:
    """Text parts, and the markers C (call), A (args), I (call id) and E (end) as their one token."""
    marks = {"C": reader.call, "A": reader.args, "I": reader._call_id, "E": reader.eos}
    found: list[int] = []
    for part in parts:
        found += [marks[part]] if part in marks else reader._tokenizer.encode(part, False, False)
    return found


@pytest.mark.parametrize(
    ("parts", "content", "calls", "repairs"),
    [
        (("Done.", "E"), "Done.", [], []),
        (("C", "bash", "A", '{"command": "ls"}', "E"), "", [("bash", '{"command": "ls"}')], []),
        (
            ("Two at once.", "C", "bash", "A", "{}", "C", "todo", "A", '{"a": [1]}', "E"),
            "Two at once.",
            [("bash", "{}"), ("todo", '{"a": [1]}')],
            [],
        ),
        (("C", "bash", "I", "abcdefghi", "A", "{}", "E"), "", [("bash", "{}")], []),
        (("C", "bash", "A", '{"command": "l'), "", [("bash", '{"command": "l')], []),  # cut by its limit
        (("C", "bash", '{"a": 1}', "E"), "", [("bash", '{"a": 1}')], [Repair.NO_ARGS_MARKER]),
        (("C", '[{"name": "bash", "arguments": {"a": 1}}]', "E"), "", [("bash", '{"a": 1}')], [Repair.OLD_LIST]),
        (("C", "bash", "A", '{"a": 1} there.', "E"), "", [("bash", '{"a": 1}')], [Repair.TRAILING_TEXT]),
        (("Look: {", "C", "bash", "A", "{}", "E"), "Look:", [("bash", "{}")], [Repair.STRAY_BRACE]),
        (("[TOOL_CALLS]bash[ARGS]{}", "E"), "", [("bash", "{}")], [Repair.MARKER_AS_TEXT]),
        (("C", "no call at all", "E"), "", [("no call at all", "")], []),
        (("C", "E"), "", [("", "")], []),
        ((), "", [], []),
    ],
)
def test_answers(
    reader: AnswerReader,
    parts: tuple[str, ...],
    content: str,
    calls: list[tuple[str, str]],
    repairs: list[Repair],
) -> None:
    read = reader.read(ids(reader, *parts))
    assert (read.content, list(read.calls), list(read.repairs)) == (content, calls, repairs)
    assert (read.raw is None) == (not repairs and all(name.isidentifier() for name, _ in calls))


@pytest.mark.parametrize(
    "text", ["The format is [TOOL_CALLS]name[ARGS]{json}.", "[TOOL_CALLS]bash[ARGS]{oh", "[TOOL_CALLS]"]
)
def test_a_text_about_the_marker_is_no_call(reader: AnswerReader, text: str) -> None:
    read = reader.read(ids(reader, text, "E"))
    assert (read.content, read.calls, read.raw) == (text, (), text)


def test_any_ids_are_read(reader: AnswerReader) -> None:
    for start in range(0, 130_000, 500):
        reader.read([*range(start, start + 40), reader.call, *range(start + 40, start + 50), reader.args, 5, 6])


def test_history_keeps_the_ids_that_were_generated(counter: TokenCounter, reader: AnswerReader) -> None:
    # Encoding this answer's text anew would merge these tokens into others.
    split = [token for letter in "hello" for token in ids(reader, letter)]
    assert split != ids(reader, "hello")
    engine = AnsweringEngine([[*split, reader.call, *ids(reader, "bash"), reader.args, *ids(reader, "{}"), reader.eos]])
    conversation = EngineModel(engine, counter, "m").open("Fix it.", TOOLS)
    conversation.add([UserMessage(content="The issue.")])
    before = conversation.tokens
    done = conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
    assert (done.message.content, [c.name for c in done.message.tool_calls]) == ("hello", ["bash"])
    assert conversation.tokens == before + len(engine.answers[0])
    conversation.add([ToolMessage(tool_call_id=done.message.tool_calls[0].id, name="bash", content="ok")])
    conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
    first, second = (list(request.ids) for request in engine.requests)
    assert second[: before + len(engine.answers[0])] == first + engine.answers[0]


def test_an_answer_cut_by_its_limit_is_closed_in_the_history(counter: TokenCounter, reader: AnswerReader) -> None:
    engine = AnsweringEngine([ids(reader, "half a wo")], finish="length")
    model = EngineModel(engine, counter, "m")
    conversation = model.open("Fix it.", TOOLS)
    conversation.add([UserMessage(content="The issue.")])
    before = conversation.tokens
    assert conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event()).finish_reason == "length"
    assert conversation.tokens == before + len(engine.answers[0]) + 1


def test_an_aborted_answer_is_no_part_of_the_history(counter: TokenCounter, reader: AnswerReader) -> None:
    engine = AnsweringEngine([ids(reader, "half")], finish="abort")
    model = EngineModel(engine, counter, "m")
    conversation = model.open("Fix it.", TOOLS)
    conversation.add([UserMessage(content="The issue.")])
    before = conversation.tokens
    done = conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
    assert (done.finish_reason, done.usage.completion, conversation.tokens) == ("abort", 1, before)
    assert model.repairs[0] == 0


def test_a_call_can_be_forced(counter: TokenCounter, reader: AnswerReader) -> None:
    engine = AnsweringEngine([ids(reader, "C", "bash", "A", "{}", "E")])
    conversation = EngineModel(engine, counter, "m").open("Fix it.", TOOLS)
    assert isinstance(conversation, CallsForced)
    conversation.add([UserMessage(content="The issue.")])
    done = conversation.complete_call(Sampling(max_tokens=9), deadline=time.monotonic() + 5, cancel=Event())
    assert [call.name for call in done.message.tool_calls] == ["bash"]
    (request,) = engine.requests
    assert (request.grammar, request.max_tokens) == (one_of(TOOLS, Marks.of(reader)), 9)


def test_repairs_are_counted(counter: TokenCounter, reader: AnswerReader) -> None:
    plain = ids(reader, "C", "bash", "A", "{}", "E")
    odd = ids(reader, "C", "bash", "{}", "E")
    model = EngineModel(AnsweringEngine([plain, odd]), counter, "m")
    conversation = model.open("", TOOLS)
    for _ in range(2):
        conversation.add([UserMessage(content="Go on.")])
        conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
    assert model.repairs == (2, {"no_args_marker": 1})


def test_the_request_holds_the_history_as_an_array(counter: TokenCounter, reader: AnswerReader) -> None:
    engine = AnsweringEngine([[reader.eos]])
    conversation = EngineModel(engine, counter, "m").open("Fix it.", TOOLS)
    conversation.add([UserMessage(content="The issue.")])
    conversation.complete(Sampling(temperature=0.7, max_tokens=99), deadline=time.monotonic() + 5, cancel=Event())
    request = engine.requests[0]
    assert isinstance(request.ids, array)
    assert (request.temperature, request.max_tokens, request.stop) == (0.7, 99, (reader.eos,))


def test_other_weights_are_another_model_under_the_same_name(counter: TokenCounter) -> None:
    """So a run with answers of the old ones begins anew, and the ledger tells who made which call."""
    old, new = (EngineModel(AnsweringEngine([[5]]), counter, "m", revision=weights) for weights in ("aa", "bb"))
    assert (old.identity, new.identity) == ("vllm:m@aa", "vllm:m@bb")
    assert (old.label, new.label) == ("vllm:m (fake 1; weights aa)", "vllm:m (fake 1; weights bb)")
