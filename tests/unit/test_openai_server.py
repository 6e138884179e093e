"""The OpenAI adapter against a real HTTP server on loopback: dialects, faults, retries, aborts, and what is said."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from threading import Event

import pytest
from pydantic import SecretStr

from agent.errors import LimitsExceeded
from agent.tokens import TokenCounter
from agent.types import Sampling, ToolMessage, ToolSpec, Usage, UserMessage
from tests.fake_openai_server import FakeOpenAIServer, Reply
from worker.adapters.models.address import check_address
from worker.adapters.models.openai_client import CallPolicy
from worker.adapters.models.openai_server import OpenAIModel
from worker.adapters.models.openai_wire import tool_calls_in_text
from worker.errors import ModelRejected, ModelUnavailable

COUNTER = TokenCounter()
SYSTEM = "You mend code."
TOOLS = (ToolSpec(name="bash", description="Run.", parameters={"type": "object", "properties": {}}),)
USER = UserMessage(content="Fix it.")
FAST = CallPolicy(backoff_seconds=0.001, longest_wait_seconds=0.2, connect_seconds=5, read_seconds=5)
OK = Reply(content="fine")


@contextmanager
def served(*replies, policy=FAST, api_key=None, **options):
    with FakeOpenAIServer(*replies, **options) as server:
        model = OpenAIModel(check_address(server.url, ()), "devstral", COUNTER, api_key=api_key, policy=policy)
        with model:
            yield server, model


def ask(model_or_conversation, *messages, seconds=30.0, cancel=None, sampling=None):
    conversation = model_or_conversation
    if isinstance(conversation, OpenAIModel):
        conversation = conversation.open(SYSTEM, TOOLS)
        messages = messages or (USER,)
    conversation.add(messages)
    return conversation.complete(sampling or Sampling(), deadline=time.monotonic() + seconds, cancel=cancel or Event())


def chunk(delta, finish=None, **extra):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **extra}


def answered(*chunks):
    """The answer to one request whose stream holds these chunks."""
    with served(Reply(chunks=list(chunks))) as (_, model):
        return ask(model)


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_the_request_holds_what_the_protocol_asks_for_and_no_more():
    with served(OK, api_key=SecretStr("k-123")) as (server, model):
        ask(model, sampling=Sampling(temperature=0.1, max_tokens=99))
        headers, body = server.requests[0]
    assert body == {
        "model": "devstral",
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Fix it."}],
        "temperature": 0.1,
        "max_tokens": 99,
        "tools": [
            {
                "type": "function",
                "function": {"name": "bash", "description": "Run.", "parameters": TOOLS[0].parameters},
            }
        ],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert headers["authorization"] == "Bearer k-123"


def test_nothing_of_the_environment_is_told(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-environment")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with served(OK) as (server, model):
        assert ask(model).message.content == "fine"
        assert "from-environment" not in str(server.requests[0])


def test_history_goes_back_whole_and_append_only():
    calls = (("aB3dE6gH9", "bash", '{"command":"ls"}'), ("aB3dE6gH8", "bash", "{broken"), ("aB3dE6gH7", "bash", ""))
    with served(Reply(calls=calls), Reply(content=""), OK) as (server, model):
        conversation = model.open(SYSTEM, TOOLS)
        first = ask(conversation, USER)
        results = [ToolMessage(tool_call_id=c.id, name="bash", content="out \ud800") for c in first.message.tool_calls]
        ask(conversation, *results)
        ask(conversation, UserMessage(content="Say something."))
        sent = [body["messages"] for _, body in server.requests]
    assert sent[1][:2] == sent[0]
    assert sent[2][: len(sent[1])] == sent[1]
    answer = sent[1][2]
    assert [c["id"] for c in answer["tool_calls"]] == [c[0] for c in calls]
    assert [json.loads(c["function"]["arguments"]) for c in answer["tool_calls"]] == [
        {"command": "ls"},
        {"unparsed": "{broken"},
        {},
    ]
    assert sent[1][3] == {"role": "tool", "tool_call_id": "aB3dE6gH9", "content": "out \ufffd"}
    assert sent[2][-2] == {"role": "assistant", "content": " "}  # an empty answer is refused by some servers


def test_no_tools_no_tool_choice():
    with served(OK) as (server, model):
        ask(model.open("", ()), USER)
        assert {"tools", "tool_choice"}.isdisjoint(server.requests[0][1])
        assert server.requests[0][1]["messages"] == [{"role": "user", "content": "Fix it."}]


# --- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", ["yes", "ignored", "refused"])
def test_streamed_whole_and_refused_streams_give_the_same_answer(streaming):
    reply = Reply(content="größer\u2028\x85 🙂", calls=(("aB3dE6gH9", "bash", '{"command": "l\\u2028s"}'),))
    with served(reply, OK, streaming=streaming) as (server, model):
        completion = ask(model)
        assert completion.message.content == "größer\u2028\x85 🙂"
        assert completion.message.tool_calls[0].arguments == '{"command": "l\\u2028s"}'
        assert completion.finish_reason == "tool_calls"
        assert completion.usage == Usage(prompt=200, cached=0, completion=5)
        assert ask(model).message.content == "fine"
        # A refusal is remembered: it costs one call in the life of a model.
        assert [bool(body.get("stream")) for _, body in server.requests] == {
            "yes": [True, True],
            "ignored": [True, True],
            "refused": [True, False, False],
        }[streaming]


@pytest.mark.parametrize("given", ["", None, "null", "call_abcDEF123", "chatcmpl-tool-0123456789", "aB3dE6gH!", 7])
@pytest.mark.parametrize("streaming", ["yes", "ignored"])
def test_odd_call_ids_get_ours(given, streaming):
    calls = ((given, "bash", "{}"), (given, "bash", "{}"))
    with served(Reply(calls=calls), Reply(calls=calls), streaming=streaming) as (_, model):
        conversation = model.open(SYSTEM, TOOLS)
        ids = [c.id for c in ask(conversation, USER).message.tool_calls]
        ids += [c.id for c in ask(conversation, USER).message.tool_calls]
    assert ids == ["call00000", "call00001", "call00002", "call00003"]


def test_a_call_id_seen_before_is_replaced():
    calls = (("call00001", "bash", "{}"), ("aB3dE6gH9", "bash", "{}"), ("aB3dE6gH9", "bash", "{}"), ("", "bash", "{}"))
    with served(Reply(calls=calls)) as (_, model):
        ids = [c.id for c in ask(model).message.tool_calls]
    assert ids == ["call00001", "aB3dE6gH9", "call00000", "call00002"]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('[TOOL_CALLS]bash[ARGS]{"command": "ls"}', "", [("bash", '{"command": "ls"}')]),
        (
            'I look. [TOOL_CALLS]bash[ARGS]{"command": "a [TOOL_CALLS]x[ARGS]"}\n[TOOL_CALLS]grep[CALL_ID]a1[ARGS]{}\n',
            "I look.",
            [("bash", '{"command": "a [TOOL_CALLS]x[ARGS]"}'), ("grep", "{}")],
        ),
        ('[TOOL_CALLS] [{"name": "bash", "arguments": {"a": 1}}]', "", [("bash", '{"a": 1}')]),
    ],
)
def test_calls_left_in_the_text_are_taken_from_it(text, content, calls):
    with served(Reply(content=text)) as (_, model):
        completion = ask(model)
    assert completion.message.content == content
    assert [(c.name, c.arguments) for c in completion.message.tool_calls] == calls
    assert completion.message.raw == text
    assert completion.finish_reason == "tool_calls"
    assert completion.repairs == ("calls_in_text",)


@pytest.mark.parametrize(
    "text",
    [
        '[TOOL_CALLS]bash[ARGS]{"command": "ls',
        '[TOOL_CALLS]bash{"command": "ls"}',
        '[TOOL_CALLS]bash[ARGS]{"command": "ls"} and then',
        '[TOOL_CALLS]bash[ARGS]{}[TOOL_CALLS]bash[ARGS]{"',
        "[TOOL_CALLS]",
        "[TOOL_CALLS][]",
        '[TOOL_CALLS]["bash"]',
        '[TOOL_CALLS]{"name": "bash"}',
        "[TOOL_CALLS]bash[ARGS]" + "[" * 5_000,
    ],
    ids=lambda text: text[:40],
)
def test_half_a_call_in_the_text_is_kept_raw_and_not_guessed(text):
    assert tool_calls_in_text(text) is None
    with served(Reply(content=text)) as (_, model):
        completion = ask(model)
    assert completion.message.tool_calls == ()
    assert completion.message.raw == text
    assert completion.finish_reason == "stop"


def test_parsed_calls_win_over_text():
    with served(Reply(content="[TOOL_CALLS]a[ARGS]{}", calls=(("aB3dE6gH9", "bash", "{}"),))) as (_, model):
        message = ask(model).message
    assert [c.name for c in message.tool_calls] == ["bash"]
    assert message.raw is None


@pytest.mark.parametrize(
    ("given", "calls", "ours"),
    [
        ("stop", (), "stop"),
        ("stop", (("aB3dE6gH9", "bash", "{}"),), "tool_calls"),
        ("tool_calls", (("aB3dE6gH9", "bash", "{}"),), "tool_calls"),
        ("function_call", (("aB3dE6gH9", "bash", "{}"),), "tool_calls"),
        ("tool_calls", (), "stop"),
        ("length", (("aB3dE6gH9", "bash", '{"a'),), "length"),
        ("model_length", (), "length"),
        ("abort", (), "abort"),
        ("content_filter", (), "stop"),
        ("whatever", (), "stop"),
    ],
)
def test_finish_reasons(given, calls, ours):
    with served(Reply(content="x", calls=calls, finish=given)) as (_, model):
        assert ask(model).finish_reason == ours


def call_delta(name=None, arguments=None, **fields):
    return {"tool_calls": [{**fields, "function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        ([call_delta("bash", '{"a"', id="aB3dE6gH9"), call_delta(None, ": 1}")], [("bash", '{"a": 1}')]),  # no index
        (
            [call_delta("a", "{}", index=0, id="aB3dE6gH1"), call_delta("b", "{}", index=0, id="aB3dE6gH2")],
            [("a", "{}"), ("b", "{}")],
        ),  # one index for two calls
        (
            [call_delta("bash", "{", index=0, id="aB3dE6gH1"), call_delta("bash", "}", index=0, id="aB3dE6gH1")],
            [("bash", "{}")],
        ),  # name and id repeated
        ([call_delta("a", "{}", id="0"), call_delta("a", "{}", id="0")], [("a", "{}"), ("a", "{}")]),  # one id for two
        ([call_delta("a", "{}", id="0"), call_delta("a", "", id="0")], [("a", "{}")]),  # and nothing more of the first
        ([call_delta("bash", {"a": 1}, index=0)], [("bash", '{"a": 1}')]),  # an object where a string belongs
        (
            [call_delta("b", "{", index=1), call_delta("a", "[", index=0), call_delta("", "}", index=1)],
            [("b", "{}"), ("a", "[")],
        ),  # interleaved
        ([call_delta(None, '{"a": 1}', index=0)], []),  # no name ever
        ([{"tool_calls": None, "content": None}, {"tool_calls": ["x"]}, {"tool_calls": [{"function": None}]}], []),
    ],
)
def test_dialects_of_streamed_calls(chunks, calls):
    message = answered(*(chunk(delta) for delta in chunks), chunk({}, "tool_calls")).message
    assert [(c.name, c.arguments) for c in message.tool_calls] == calls


def test_odd_streams_are_read():
    completion = answered(
        b": a comment\r\n\r\nevent: x\n",
        {"choices": []},
        {"choices": None},
        {"choices": [{"delta": None}]},
        b'data:{"choices": [{"delta": {"content": "a"}}]}\r\n\r\n',
        chunk({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}, "x"]}),
        b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n',  # a pair in two halves
        b'data: {"choices": [{"delta": {"content": "\\ude42\\ud83d"}}]}\n\n',  # and half a pair
        b'data: {"choices": [{"delta": {"content": "c"}, "finish_reason": "stop"}]}',
    )
    assert completion.message.content == "ab\U0001f642\ufffdc"
    assert completion.finish_reason == "stop"


# --- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2}, Usage(prompt=9, cache_untold=9, completion=2)),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None},
            Usage(prompt=9, cache_untold=9, completion=2),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(prompt=9, cached=8, completion=2),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 800}},
            Usage(prompt=9, cached=9, completion=2),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": None}},
            Usage(prompt=9, cache_untold=9, completion=2),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}},
            Usage(prompt=9, completion=2),
        ),
    ],
)
@pytest.mark.parametrize("streaming", ["yes", "ignored"])
def test_usage_is_the_servers(given, ours, streaming):
    with served(Reply(content="x", usage=given), streaming=streaming) as (_, model):
        assert ask(model).usage == ours
        assert model.tokenizer == f"usage from the server; {COUNTER.label}"


@pytest.mark.parametrize("given", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_missing_usage_is_counted_and_the_labels_say_so(given):
    with served(Reply(content="counted", usage=given)) as (_, model):
        completion = ask(model)
        history = COUNTER.open(SYSTEM, TOOLS)
        history.add(USER)
        prompt, reply = len(history), history.reply(completion.message)
        assert completion.usage == Usage(prompt=prompt, cache_untold=prompt, completion=reply)
        assert model.tokenizer == f"no usage from the server; {COUNTER.label}"
        assert COUNTER.label in model.label


def told(prompt):
    return Reply(content="x", usage={"prompt_tokens": prompt, "completion_tokens": 1})


@pytest.mark.parametrize(
    ("prompts", "cut"),
    [
        ((3000, 3900, 3500), True),
        ((3000, 3900, 3900), False),
        ((3000, 100, 90), False),  # it counts only what it had not cached
    ],
)
def test_a_prompt_that_was_counted_smaller_than_before_was_cut(prompts, cut):
    with served(*map(told, prompts), OK) as (_, model):
        conversation = model.open(SYSTEM, TOOLS)
        for _ in prompts:
            ask(conversation, USER)
        if not cut:
            assert ask(conversation, USER).message.content == "fine"
            return
        with pytest.raises(LimitsExceeded, match="read 3500 tokens of a conversation that had 3900 before"):
            ask(conversation, USER)


# --- faults ---------------------------------------------------------------------------------------------------------

DROPPED = Reply(chunks=[chunk({"content": "half"})], drop=True)


@pytest.mark.parametrize(
    "fault",
    [
        *(Reply(status=status, body={"error": {"message": "later"}}) for status in (408, 409, 429, 500, 502, 503, 529)),
        Reply(status=503, body=b"<html>busy</html>", headers={"content-type": "text/html"}),
        DROPPED,
        Reply(chunks=[chunk({"content": "half"})]),  # ends without a finish
        Reply(chunks=[chunk({"content": "half"}), {"error": {"message": "engine died", "code": 500}}]),
        Reply(chunks=[b"data: {half\n\n"]),
        Reply(chunks=[b"data: [1]\n\n"]),
        Reply(body=b"not json"),
    ],
    ids=lambda reply: f"{reply.status}-{str((reply.chunks or [reply.body])[-1])[:60]}-{reply.drop}",
)
def test_passing_faults_are_tried_again_and_the_answer_is_whole(fault):
    with served(fault, fault, fault, OK) as (server, model):
        completion = ask(model)
        assert len(server.requests) == 4
    assert completion.message.content == "fine"


def test_retries_are_bounded_and_the_message_names_server_and_reason():
    busy = Reply(status=503, body={"error": {"message": "loading the model"}})
    with served(*[busy] * 9) as (server, model):
        with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1.*HTTP 503: loading the model \(4 tries\)"):
            ask(model)
        assert len(server.requests) == 4


def test_a_server_that_is_not_there_is_unavailable():
    with FakeOpenAIServer() as server:
        url = server.url
    says = r"127\.0\.0\.1:\d+/v1: no connection .*4 tries"
    with (
        OpenAIModel(check_address(url, ()), "m", COUNTER, policy=FAST) as model,
        pytest.raises(ModelUnavailable, match=says),
    ):
        ask(model)


def test_a_server_that_never_answers_is_not_asked_again():
    policy = FAST.model_copy(update={"read_seconds": 0.1})
    with served(Reply(hang="before"), OK, policy=policy) as (server, model):
        with pytest.raises(ModelUnavailable, match=r"no answer within 0\.1 s"):
            ask(model)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (
            Reply(status=400, body={"error": {"message": "temperature: must be at most 2", "param": "temperature"}}),
            "most 2",
        ),
        (Reply(status=401, body={"error": "bad key"}), "bad key.*401"),
        (Reply(status=403, body=b"forbidden", headers={"content-type": "text/plain"}), "forbidden.*403"),
        (Reply(status=404, body={"detail": "model not found upstream"}), "not found upstream.*404"),
        (Reply(status=422, body={"detail": [{"loc": ["tools"], "msg": "extra"}]}), "extra.*422"),
        (Reply(status=302, body={}, headers={"location": "http://8.8.8.8/"}), r"redirect to http://8\.8\.8\.8/"),
        (Reply(chunks=[{"error": {"message": "prompt too long", "code": 400}}]), "prompt too long"),
    ],
)
def test_refusals_are_permanent_with_the_servers_words(reply, says):
    with served(reply, OK) as (server, model):
        with pytest.raises(ModelRejected, match=says):
            ask(model)
        assert len(server.requests) == 1


def test_a_wrong_base_url_is_a_refusal():
    with FakeOpenAIServer(OK) as server:
        address = check_address(server.url.removesuffix("/v1"), ())
        with OpenAIModel(address, "m", COUNTER, policy=FAST) as model, pytest.raises(ModelRejected, match="Not Found"):
            ask(model)


@pytest.mark.parametrize("header", ["0.15", "9999", "inf", "in an hour"])
def test_retry_after_is_honoured_up_to_a_cap(header):
    if header == "in an hour":
        header = formatdate(time.time() + 3600, usegmt=True)
    busy = Reply(status=429, body={"error": {"message": "slow down"}}, headers={"retry-after": header})
    with served(busy, OK) as (_, model):
        completion = ask(model)
    assert completion.message.content == "fine"
    assert 0.14 <= completion.seconds < 5  # the cap of this policy is 0.2 s


@pytest.mark.parametrize("header", ["soon", "-5", "nan", ""])
def test_a_useless_retry_after_does_no_harm(header):
    busy = Reply(status=429, body={}, headers={"retry-after": header})
    with served(busy, OK) as (_, model):
        assert ask(model).message.content == "fine"


@pytest.mark.parametrize(
    "answer",
    [
        Reply(status=404, body={"detail": "Not Found"}),
        Reply(status=401, body={}),
        Reply(body=b"not json"),
        Reply(body=[]),
        Reply(body={"data": [{"id": "devstral", "max_model_len": "16384"}]}),
    ],
    ids=lambda reply: f"{reply.status}-{reply.body}",
)
def test_a_server_without_a_usable_list_of_models_has_a_window_that_is_not_known(answer):
    with served(OK) as (server, model):
        server.models = lambda: answer
        assert model.window is None
        assert ask(model).message.content == "fine"


# --- abort ----------------------------------------------------------------------------------------------------------

PART = [chunk({"role": "assistant", "content": "half an "}), chunk({"content": "answer"})]


def when(event, then):
    thread = threading.Thread(target=lambda: event.wait(10) and then())
    thread.start()
    return thread


@pytest.mark.parametrize("hang", ["before", "after"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_call_in_flight_is_aborted_and_the_server_sees_it(hang, how):
    policy = FAST.model_copy(update={"read_seconds": 60.0})  # so that only the abort can end the call
    with served(Reply(hang=hang, chunks=PART), OK, policy=policy) as (server, model):
        conversation = model.open(SYSTEM, TOOLS)
        cancel = Event()
        thread = when(server.hanging, cancel.set) if how == "cancel" else None
        started = time.monotonic()
        aborted = ask(conversation, USER, seconds=30 if how == "cancel" else 0.3, cancel=cancel)
        assert time.monotonic() - started < 2
        assert server.disconnected.wait(5)
        if thread:
            thread.join()
        assert aborted.finish_reason == "abort"
        assert aborted.message.tool_calls == ()
        assert aborted.usage.prompt == conversation.tokens
        if hang == "after" and how == "cancel":
            assert "half an answer".startswith(aborted.message.content)
        assert ask(conversation).message.content == "fine"
        assert len(server.requests[1][1]["messages"]) == 2  # the aborted answer is not part of the history


def test_a_cancel_ends_the_wait_between_tries():
    policy = FAST.model_copy(update={"longest_wait_seconds": 60.0})
    busy = Reply(status=429, body={}, headers={"retry-after": "60"})
    cancel = Event()
    with served(busy, policy=policy) as (server, model):
        answered = Event()
        real = server.next_reply
        server.next_reply = lambda *a: (answered.set(), real(*a))[1]
        thread = when(answered, cancel.set)
        started = time.monotonic()
        assert ask(model, cancel=cancel).finish_reason == "abort"
        assert time.monotonic() - started < 5
        thread.join()


def test_closing_the_model_ends_calls_in_flight():
    with served(Reply(hang="before")) as (server, model):
        thread = when(server.hanging, model.close)
        with pytest.raises(ModelUnavailable, match="closed on our side"):
            ask(model)
        thread.join()
        with pytest.raises(ModelUnavailable, match="closed on our side"):
            ask(model)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_the_key_is_in_no_message_and_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    key = "sk-very-secret-0123456789"
    with served(Reply(status=401, body={"error": f"bad key {key}"}), api_key=SecretStr(key)) as (server, model):
        with pytest.raises(ModelRejected, match=r"bad key \*\*\*") as caught:
            ask(model)
        assert server.requests[0][0]["authorization"] == f"Bearer {key}"
    assert key not in str(caught.value)
    assert key not in caplog.text
    assert key not in repr(model)


def test_a_servers_message_is_bounded():
    reply = Reply(status=400, body={"error": {"message": "x" * 100_000}})
    with served(reply) as (_, model), pytest.raises(ModelRejected) as caught:
        ask(model)
    assert len(str(caught.value)) < 1000
