"""Reading answers from token ids: the format as it should be, and every deviation that was reported of servers."""

from __future__ import annotations

import time
import zlib
from array import array
from pathlib import Path
from threading import Event

import pytest

from agent.generated import GeneratedIds
from agent.protocols import CallsForced
from agent.tokens import TokenCounter
from agent.types import AssistantMessage, CallTimes, Sampling, ToolMessage, ToolSpec, UserMessage
from tests.fakes_engine import AnsweringEngine
from worker.adapters.engine.admission import Capacity, KvAdmission
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


def test_a_takeover_has_the_ids_that_were_generated(counter: TokenCounter, reader: AnswerReader) -> None:
    """Red where `restore` encodes the answer's text anew."""
    split = [token for letter in "hello" for token in ids(reader, letter)]
    answer = [*split, reader.call, *ids(reader, "bash"), reader.args, *ids(reader, '{"a":  1}'), reader.eos]
    model = EngineModel(AnsweringEngine([answer, [*split]], finish="length"), counter, "m")
    here = model.open("Fix it.", TOOLS)
    there = EngineModel(AnsweringEngine([answer]), TokenCounter(), "m").open("Fix it.", TOOLS)
    elsewhere = model.open("Fix it.", TOOLS)
    for conversation in (here, there, elsewhere):
        conversation.add([UserMessage(content="The issue.")])
    for _ in range(2):  # the second one is cut: its closing token is no part of what the engine gave
        done = here.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
        assert done.generated is not None
        there.restore(done.message, GeneratedIds.model_validate_json(done.generated.model_dump_json()))
        elsewhere.restore(done.message, done.generated.model_copy(update={"vocabulary": "another"}))
        results = [ToolMessage(tool_call_id=one.id, name=one.name, content="ok") for one in done.message.tool_calls]
        for conversation in (here, there, elsewhere):
            conversation.add(results or [UserMessage(content="Go on.")])
    assert there._history.ids == here._history.ids
    assert elsewhere._history.ids != here._history.ids, "encoding anew gives other ids"


def test_ids_are_packed_and_come_back() -> None:
    every = array("i", [*range(0, 131_072, 97), 0, 127, 128, 16_383, 16_384, 131_071])
    for row in (every, array("i")):
        assert GeneratedIds.of(row, "v").ids() == row
    with pytest.raises(ValueError, match="no packed"):
        GeneratedIds.stored(b"what", "v").ids()
    with pytest.raises(ValueError, match="end within"):
        GeneratedIds.stored(zlib.compress(b"\x80"), "v").ids()


def test_an_answer_of_300_tokens_takes_less_than_700_bytes(counter: TokenCounter) -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    row = array("i", counter.load().tokenizer.encode(text, False, False)[:300])
    assert len(row) == 300
    assert len(GeneratedIds.of(row, counter.vocabulary).data) < 700


def test_a_call_says_where_its_time_went_and_what_was_mended(counter: TokenCounter, reader: AnswerReader) -> None:
    model = EngineModel(AnsweringEngine([ids(reader, "C", "bash", "{}", "E")]), counter, "m")
    conversation = model.open("Fix it.", TOOLS)
    conversation.add([UserMessage(content="The issue.")])
    done = conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
    assert done.repairs == ("no_args_marker",)
    assert done.times == CallTimes(turn=0.0, queued=0.0, first=0.0, decode=0.0, again=0)


def test_what_a_takeover_computes_again_is_told_and_is_no_pressure(counter: TokenCounter, reader: AnswerReader) -> None:
    gate = KvAdmission(Capacity(gpu=1 << 20, context=200_000), expected=1000)
    model = EngineModel(AnsweringEngine([ids(reader, "C", "bash", "A", "{}", "E")]), counter, "m", admission=gate)
    for _ in range(4):  # so many would lower it, if they were taken for contexts that were pushed out
        conversation = model.open("Fix it.", TOOLS)
        conversation.add([UserMessage(content="The issue. " * 2000)])
        conversation.restore(AssistantMessage(content="Let me look."))
        before = conversation.tokens
        conversation.add([UserMessage(content="Go on.")])
        done = conversation.complete(Sampling(), deadline=time.monotonic() + 5, cancel=Event())
        assert done.times is not None
        assert done.times.again == (before - 1) // 16 * 16  # the fake's cache has nothing
    assert gate.pressure == 1.0


def test_a_question_beside_the_trajectories_takes_none_of_their_room(
    counter: TokenCounter, reader: AnswerReader
) -> None:
    gate = KvAdmission(Capacity(gpu=100_000, context=200_000), expected=90_000)
    model = EngineModel(AnsweringEngine([ids(reader, "A bug.", "E")]), counter, "m", admission=gate)
    assert gate.enter()
    run = model.open("Fix it.", TOOLS)
    run.add([UserMessage(content="The issue.")])
    with gate.seat().turn(array("i", range(97_900)), 10, deadline=time.monotonic() + 5, cancel=None):
        kept = run.complete(Sampling(), deadline=time.monotonic() + 0.2, cancel=Event())
        assert kept.finish_reason == "abort"  # a trajectory's call has to wait
        question = model.beside("Sort it.")
        question.add([UserMessage(content="The issue.")])
        answer = question.complete(Sampling(max_tokens=500), deadline=time.monotonic() + 5, cancel=Event())
        question.close()
    assert answer.message.content == "A bug."
    assert gate.load().holding == 1


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
