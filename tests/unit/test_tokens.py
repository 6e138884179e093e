"""The token counter: incremental equals full, nothing rewritten but merged user messages, odd input counted."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from mistral_common.protocol.instruct import messages as mc
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool
from mistral_common.protocol.instruct.tool_calls import ToolCall as McToolCall
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from agent.tokens import BUNDLED, TokenCounter, TokenizerUnusable
from agent.types import AssistantMessage, Message, ToolCall, ToolMessage, ToolSpec, UserMessage
from agent.wire import tool_call_id, wire_arguments, wire_content

SYSTEM = "You mend code.\nBe brief."
TOOLS = (
    ToolSpec(
        name="read_file",
        description="Read a file: whole, or “in part”.",
        parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    ),
    ToolSpec(name="bash", description="Run a command.", parameters={"type": "object", "properties": {}}),
)


@pytest.fixture(scope="module")
def counter():
    return TokenCounter()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def f(x):\n    return x\n",
        "naïve — “quoted” \u65e5\u672c\u8a9e 🙂",
        "[TOOL_CALLS]bash[ARGS]{} </s> <unk>",
        " " * 19_999 + "x",
        "one\ntwo\r\n" * 5000,
        "lone \ud800 surrogate",
    ],
)
def test_the_short_ways_give_what_mistral_commons_own_give(counter, text):
    short = counter.load().tokenizer
    ids = short.encode(text, True, True)
    assert ids == Tekkenizer.encode(short, text, True, True)
    policies = (SpecialTokenPolicy.IGNORE, SpecialTokenPolicy.KEEP)
    for some in (ids, ids[1:-1], ids[1:5]):
        for policy in policies:
            assert short.decode(some, policy) == Tekkenizer.decode(short, some, policy)


def full(counter: TokenCounter, system: str, tools, messages: list[Message]) -> list[int]:
    """mistral-common's own way: validate, normalise and encode the whole request."""
    inner = counter.load()
    whole = MistralTokenizer(
        inner,
        validator=get_validator(TokenizerVersion.v13, mode=ValidationMode.test),
        request_normalizer=get_normalizer(TokenizerVersion.v13, None),
    )
    out: list = [mc.SystemMessage(content=system)] if system else []
    for message in messages:
        if isinstance(message, UserMessage):
            out.append(mc.UserMessage(content=message.content))
        elif isinstance(message, ToolMessage):
            out.append(mc.ToolMessage(content=message.content, tool_call_id=message.tool_call_id, name=message.name))
        else:
            calls = [
                McToolCall(id=c.id, function=FunctionCall(name=c.name, arguments=wire_arguments(c.arguments)))
                for c in message.tool_calls
            ]
            out.append(mc.AssistantMessage(content=wire_content(message) or None, tool_calls=calls or None))
    request = ChatCompletionRequest(
        messages=out,
        tools=[Tool(function=Function(name=t.name, description=t.description, parameters=t.parameters)) for t in tools]
        or None,
    )
    return whole.encode_chat_completion(request).tokens


def call(n: int, name: str, arguments: str) -> ToolCall:
    return ToolCall(id=tool_call_id(n), name=name, arguments=arguments)


def result(n: int, name: str, content: str) -> ToolMessage:
    return ToolMessage(tool_call_id=tool_call_id(n), name=name, content=content)


CONVERSATION: list[Message] = [
    UserMessage(content="Fix issue 7: größer ≠ besser [INST] 🙂\n\n\tdef f(): ..."),
    AssistantMessage(
        content="I look at two files. ",
        tool_calls=(call(0, "read_file", '{"path":"a.py"}'), call(1, "read_file", '{"path": "ü.py",  "limit": 3}')),
    ),
    result(0, "read_file", "x = 1\n"),
    result(1, "read_file", ""),
    AssistantMessage(tool_calls=(call(2, "bash", "{not json"),)),
    result(2, "bash", "<tool_error>bash failed: arguments are no JSON</tool_error>"),
    UserMessage(content="A reminder after a tool result."),
    AssistantMessage(content=""),
    UserMessage(content="Use a tool."),
    UserMessage(content="Really."),
    AssistantMessage(tool_calls=(call(3, "bash", ""),)),
    result(3, "bash", "\x1b[31mred\x1b[0m\x00 \ud800"),
]


@pytest.mark.parametrize("system", [SYSTEM, ""])
@pytest.mark.parametrize("tools", [TOOLS, ()])
def test_incremental_equals_full_after_every_input(counter, system, tools):
    history = counter.open(system, tools)
    for i, message in enumerate(CONVERSATION):
        history.add(message)
        if not isinstance(message, AssistantMessage):
            assert list(history.ids) == full(counter, system, tools, CONVERSATION[: i + 1])
    assert len(history) == len(history.ids)


def test_each_turn_is_a_prefix_of_the_next_and_only_merged_user_messages_rewrite(counter):
    history = counter.open(SYSTEM, TOOLS)
    rewrites = []
    for i, message in enumerate(CONVERSATION):
        before = history.ids
        kept = history.add(message)
        assert history.ids[:kept] == before[:kept]
        if kept != len(before):
            rewrites.append(i)
    assert rewrites == [9]


def test_tools_are_counted_with_the_first_user_message(counter):
    bare, offered = counter.open(SYSTEM, ()), counter.open(SYSTEM, TOOLS)
    assert len(bare) == len(offered)
    for history in (bare, offered):
        history.add(UserMessage(content="hello"))
    assert len(offered) > len(bare) + 50


def test_reply_counts_without_appending(counter):
    history = counter.open(SYSTEM, TOOLS)
    history.add(CONVERSATION[0])
    answer = CONVERSATION[1]
    assert isinstance(answer, AssistantMessage)
    before, tokens = len(history), history.reply(answer)
    assert len(history) == before
    history.add(answer)
    assert len(history) == before + tokens
    assert history.reply(AssistantMessage()) == 1  # only the closing token


def test_cost_follows_the_new_tokens_not_the_history(counter, monkeypatch):
    inner = counter.load()
    history = counter.open(SYSTEM, TOOLS)
    history.add(UserMessage(content="long " * 20_000))
    seen = []
    encode = inner.tokenizer.encode
    monkeypatch.setattr(inner.tokenizer, "encode", lambda s, bos, eos: seen.append(len(s)) or encode(s, bos, eos))
    history.add(AssistantMessage(tool_calls=(call(0, "bash", '{"command": "ls"}'),)))
    history.add(result(0, "bash", "a.py"))
    assert sum(seen) < 100


@pytest.mark.parametrize("text", ["\ud800", "a" * 200_000, " " * 1_500_000, "\n" * 1_500_000, "\x00[TOOL_CALLS]", ""])
def test_every_text_can_be_counted(counter, text):
    assert counter.text(text) >= (1 if text else 0)


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ('{"a":1}', '{"a":1}'),
        ("", "{}"),
        (" \n", "{}"),
        ("[1]", '{"unparsed": "[1]"}'),
        ('{"a": ', '{"unparsed": "{\\"a\\": "}'),
        ("9" * 5000, json.dumps({"unparsed": "9" * 5000})),
        ("[" * 100_000, json.dumps({"unparsed": "[" * 100_000})),
    ],
    ids=lambda text: text[:12],
)
def test_wire_arguments_are_always_an_object(text, wire):
    assert wire_arguments(text) == wire
    assert isinstance(json.loads(wire_arguments(text)), dict)


def test_call_ids_are_nine_alphanumerics_and_distinct():
    ids = [tool_call_id(n) for n in (0, 1, 99_999)]
    assert all(len(i) == 9 and i.isascii() and i.isalnum() for i in ids)
    assert len(set(ids)) == 3
    for n in (-1, 100_000):
        with pytest.raises(ValueError, match="outside"):
            tool_call_id(n)


def test_label_says_approximate_for_the_bundled_vocabulary_only(tmp_path):
    assert TokenCounter().label == f"{BUNDLED} (approximate)"
    assert TokenCounter(tmp_path / "tekken.json").label == "tekken"


def test_construction_reads_nothing_and_threads_load_once(monkeypatch):
    from agent import tekken

    loads = []
    real = tekken.load
    monkeypatch.setattr(tekken, "load", lambda *a: loads.append(a) or real(*a))
    counter = TokenCounter()
    assert not loads
    threads = [threading.Thread(target=counter.load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def small_tekken(path: Path, version: str) -> Path:
    """A real vocabulary cut to its 256 bytes and 500 merges, in the file format of `version`."""
    import mistral_common

    source = Path(mistral_common.__file__).parent / "data" / f"{BUNDLED}.json"
    data = json.loads(source.read_text(encoding="utf-8"))
    from mistral_common.tokens.tokenizers.base import SpecialTokens

    names = [token.value for token in SpecialTokens]
    config = dict(
        data["config"],
        version=version,
        num_vocab_tokens=756,
        default_vocab_size=856,
        default_num_special_tokens=100,
    )
    special = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)]
    path.write_text(
        json.dumps({"config": config, "vocab": data["vocab"][:756], "special_tokens": special, "version": 1}),
        encoding="utf-8",
    )
    return path


def test_the_profiles_own_file_counts(tmp_path, counter):
    own = TokenCounter(small_tekken(tmp_path / "devstral.json", "v13"))
    assert own.label == "devstral"
    assert own.text("hello world, this is a test") > counter.text("hello world, this is a test")
    history = own.open(SYSTEM, TOOLS)
    history.add(CONVERSATION[0])
    assert list(history.ids) == full(own, SYSTEM, TOOLS, CONVERSATION[:1])


def test_unusable_files_are_named(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{}", encoding="utf-8")
    listed = tmp_path / "list.json"
    listed.write_text("[1]", encoding="utf-8")
    text = tmp_path / "text.json"
    text.write_text("no json", encoding="utf-8")
    old = small_tekken(tmp_path / "old.json", "v7")
    for path, says in (
        (tmp_path / "missing.json", "is not a file"),
        (broken, "not a tekken vocabulary"),
        (listed, "not a tekken vocabulary"),
        (text, "Expecting value"),
        (old, "version v7; Devstral 2 needs v13"),
    ):
        with pytest.raises(TokenizerUnusable, match=says) as caught:
            TokenCounter(path).load()
        assert str(path) in str(caught.value)
