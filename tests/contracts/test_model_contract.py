"""What every model promises behind its port: one suite, run against each adapter."""

from __future__ import annotations

import threading
import time
from threading import Event

import pytest

from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Sampling, ToolMessage, ToolSpec, Usage, UserMessage
from tests.fake_openai_server import FakeOpenAIServer, Reply
from worker.adapters.models import open_model
from worker.adapters.models.recorder import ScriptRecorder
from worker.adapters.models.script import Script, save_script
from worker.adapters.models.scripted import ScriptedModel

COUNTER = TokenCounter()
SYSTEM = "You mend code."
TOOLS = (ToolSpec(name="bash", description="Run.", parameters={"type": "object", "properties": {}}),)
USER = UserMessage(content="Fix it.")
CONVERSATIONS = 4


def result(call):
    return ToolMessage(tool_call_id=call.id, name=call.name, content="a.py\n")


def ask(conversation, *, seconds=60.0, cancel=None):
    return conversation.complete(Sampling(), deadline=time.monotonic() + seconds, cancel=cancel or Event())


def drive(model):
    """The exchange that each model here is prepared for: two calls in one answer, then an end."""
    conversation = model.open(SYSTEM, TOOLS)
    conversation.add([USER])
    first = ask(conversation)
    conversation.add([result(call) for call in first.message.tool_calls])
    return conversation, first, ask(conversation)


@pytest.fixture(params=["scripted", "openai", "openai without streaming"])
def model(request, tmp_path):
    if request.param == "scripted":
        calls = [{"name": "bash", "arguments": {"command": "ls"}}, {"name": "bash", "arguments": {"command": "pwd"}}]
        turns = [{"reply": {"content": "I look.", "tool_calls": calls}}, {"reply": {"content": "Done."}}]
        recorder = ScriptRecorder(ScriptedModel(Script(turns=turns), COUNTER, check=False))
        drive(recorder)
        path = tmp_path / "script.json"
        save_script(recorder.script(), path)
        model = open_model(f"scripted:{path}", counter=COUNTER)
        yield model
        model.close()
        return
    first = Reply(
        content="I look.", calls=(("aB3dE6gH9", "bash", '{"command": "ls"}'), ("", "bash", '{"command": "pwd"}'))
    )
    with FakeOpenAIServer(streaming="yes" if request.param == "openai" else "ignored") as server:
        # In order of arrival; the tests that hold several conversations keep them in step.
        server.replies = [first, Reply(content="Done.")]
        model = open_model(f"openai:{server.url}#devstral", counter=COUNTER)
        model.server = server
        model.prepare = lambda n: server.replies.__init__([first] * n + [Reply(content="Done.")] * n)
        yield model
        model.close()


def test_it_says_what_runs_and_what_counts(model):
    assert model.label
    assert model.tokenizer.endswith("(approximate)")


def test_an_exchange(model):
    conversation, first, second = drive(model)
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "I look."
    assert first.message.raw is None
    assert [(c.name, c.arguments) for c in first.message.tool_calls] == [
        ("bash", '{"command": "ls"}'),
        ("bash", '{"command": "pwd"}'),
    ]
    assert second.finish_reason == "stop"
    assert second.message == AssistantMessage(content="Done.")
    assert first.seconds >= 0
    conversation.close()


def test_call_ids_are_nine_alphanumerics_and_distinct(model):
    _, first, _ = drive(model)
    ids = [call.id for call in first.message.tool_calls]
    assert all(len(i) == 9 and i.isascii() and i.isalnum() for i in ids)
    assert len(set(ids)) == 2


def test_usage_is_whole_and_the_second_call_reads_from_the_cache(model):
    _, first, second = drive(model)
    assert first.usage.prompt > 0
    assert first.usage.completion > 0
    assert second.usage.prompt > first.usage.prompt
    assert 0 < second.usage.cached <= second.usage.prompt


def test_tokens_grow_with_every_message_and_answer(model):
    conversation = model.open(SYSTEM, TOOLS)
    sizes = [conversation.tokens]
    conversation.add([USER])
    sizes.append(conversation.tokens)
    first = ask(conversation)
    sizes.append(conversation.tokens)
    for call in first.message.tool_calls:
        conversation.add([result(call)])
        sizes.append(conversation.tokens)
    ask(conversation)
    sizes.append(conversation.tokens)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_an_aborted_call_changes_nothing_and_can_be_made_again(model, how):
    conversation = model.open(SYSTEM, TOOLS)
    conversation.add([USER])
    before = conversation.tokens
    cancel = Event()
    if how == "cancel":
        cancel.set()
    aborted = ask(conversation, seconds=60 if how == "cancel" else -1, cancel=cancel)
    assert aborted.finish_reason == "abort"
    assert aborted.message == AssistantMessage()
    assert aborted.usage == Usage()
    assert conversation.tokens == before
    assert ask(conversation).message.content == "I look."


def test_conversations_on_one_model_do_not_mix(model):
    if hasattr(model, "prepare"):
        model.prepare(CONVERSATIONS)
    barrier, ends, failures = threading.Barrier(CONVERSATIONS), [], []

    def one():
        try:
            conversation = model.open(SYSTEM, TOOLS)
            conversation.add([USER])
            first = ask(conversation)
            barrier.wait(10)
            conversation.add([result(call) for call in first.message.tool_calls])
            ends.append((conversation.tokens, ask(conversation).message.content))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=one) for _ in range(CONVERSATIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(ends) == CONVERSATIONS
    assert len(set(ends)) == 1
    assert ends[0][1] == "Done."


def test_a_conversation_that_is_restored_goes_on_as_the_one_before(model):
    conversation, first, second = drive(model)
    tokens = conversation.tokens
    if hasattr(model, "prepare"):
        model.prepare(0)
        model.server.replies.append(Reply(content="Done."))
    again = model.open(SYSTEM, TOOLS)
    again.add([USER])
    again.restore(first.message)
    again.add([result(call) for call in first.message.tool_calls])
    repeated = ask(again)
    assert repeated.message == second.message
    assert again.tokens == tokens
    assert repeated.usage.prompt == second.usage.prompt


def test_calls_after_a_restored_answer_have_new_ids(model):
    _, first, _ = drive(model)
    if not hasattr(model, "prepare"):
        pytest.skip("a script's calls are numbered by the script")
    model.server.replies = [Reply(calls=(("", "bash", "{}"), ("aB3dE6gH9", "bash", "{}")))]
    again = model.open(SYSTEM, TOOLS)
    again.add([USER])
    again.restore(first.message)
    again.add([result(call) for call in first.message.tool_calls])
    old = {call.id for call in first.message.tool_calls}
    new = {call.id for call in ask(again).message.tool_calls}
    assert len(new) == 2
    assert not old & new


def test_it_is_alive_and_known_by_what_it_is(model):
    assert model.alive
    assert model.identity.partition(":")[0] in {"openai", "scripted"}


def test_closing_twice_is_fine(model):
    conversation = model.open(SYSTEM, TOOLS)
    for _ in range(2):
        conversation.close()
    for _ in range(2):
        model.close()
