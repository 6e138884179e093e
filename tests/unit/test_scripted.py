"""The scripted model: refuses anything but the script, byte for byte, and scripts can be recorded and read by hand."""

from __future__ import annotations

import json
import time
from threading import Event

import pytest

from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Sampling, ToolMessage, ToolSpec, Usage, UserMessage
from worker.adapters.models.difference import first_difference
from worker.adapters.models.recorder import ScriptRecorder
from worker.adapters.models.script import NO_MODEL, Script, load_script, save_script
from worker.adapters.models.scripted import ScriptedModel
from worker.errors import ScriptMismatch, SettingsError

COUNTER = TokenCounter()
SYSTEM = "You mend code.\nUse tools."
TOOLS = (ToolSpec(name="bash", description="Run a command.", parameters={"type": "object", "properties": {}}),)
LISTING = "returncode: 0\nstdout: a.py\n\tb.py \nstderr: \n"
USER = UserMessage(content="Fix the bug.\nIn a.py.")
RESULT = ToolMessage(tool_call_id="call00000", name="bash", content=LISTING)
SCRIPT = {
    "format": "devstral-fix-script-1",
    "label": "scripted by hand; no language model ran",
    "system_sha256": None,
    "tools_sha256": None,
    "turns": [
        {
            "expect": None,
            "reply": {"content": "I look.", "tool_calls": [{"name": "bash", "arguments": {"command": "ls"}}]},
        },
        {"expect": None, "reply": {"content": ["Two", "lines."]}},
    ],
}


def step(conversation, *messages):
    conversation.add(messages)
    return conversation.complete(Sampling(), deadline=time.monotonic() + 60, cancel=Event())


def play(model, *, system=SYSTEM, tools=TOOLS, user=USER, result=RESULT):
    conversation = model.open(system, tools)
    try:
        return step(conversation, user), step(conversation, result)
    finally:
        conversation.close()


@pytest.fixture
def unrecorded(tmp_path):
    path = tmp_path / "draft.json"
    path.write_text(json.dumps(SCRIPT), encoding="utf-8")
    return path


@pytest.fixture
def recorded(unrecorded, tmp_path):
    recorder = ScriptRecorder.of_file(unrecorded, COUNTER)
    play(recorder)
    path = tmp_path / "script.json"
    recorder.save(path)
    return path


@pytest.fixture
def model(recorded):
    return ScriptedModel.from_file(recorded, COUNTER)


def test_a_recorded_script_plays(model):
    first, second = play(model)
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls[0].id == "call00000"
    assert json.loads(first.message.tool_calls[0].arguments) == {"command": "ls"}
    assert second.message.content == "Two\nlines."
    assert second.finish_reason == "stop"
    assert model.finished
    model.require_finished()
    assert NO_MODEL in model.label
    assert model.tokenizer.endswith("(approximate)")


def test_usage_is_counted_and_cached_is_what_was_sent_before(model):
    first, second = play(model)
    assert first.usage.cached == 0
    assert second.usage.cached == first.usage.prompt
    assert second.usage.prompt > first.usage.prompt + first.usage.completion
    history = COUNTER.open(SYSTEM, TOOLS)
    history.add(USER)
    assert first.usage.prompt == len(history)
    assert first.usage.completion == history.reply(first.message)


def one_byte_variants():
    for i in range(len(LISTING)):
        yield pytest.param(LISTING[:i] + chr(ord(LISTING[i]) ^ 1) + LISTING[i + 1 :], id=f"flipped-{i}")
    yield pytest.param(LISTING[:-1], id="one-byte-less")
    yield pytest.param(LISTING + "\n", id="one-byte-more")
    yield pytest.param("", id="nothing")


@pytest.mark.parametrize("content", list(one_byte_variants()))
def test_one_byte_differing_in_a_tool_result_is_refused(model, content):
    """Turns red when the comparison in ScriptedConversation is removed."""
    with pytest.raises(ScriptMismatch, match="turn 2, message 1"):
        play(model, result=RESULT.model_copy(update={"content": content}))
    assert not model.finished


def test_the_message_shows_the_line_both_versions_and_control_characters(model):
    with pytest.raises(ScriptMismatch) as caught:
        play(model, result=RESULT.model_copy(update={"content": LISTING.replace("b.py ", "b.py\x1b")}))
    message = str(caught.value)
    assert "turn 2, message 1 (tool 'bash' for 'call00000')" in message
    assert "line 3, column 6" in message
    assert r"expected: '\tb.py \n'" in message
    assert r"got:      '\tb.py\x1b\n'" in message
    assert "U+001B" in message


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"system": SYSTEM + " "}, "the system prompt differs.*sha256"),
        ({"tools": ()}, "the tools differ"),
        ({"tools": (TOOLS[0].model_copy(update={"description": "Run a command"}),)}, "the tools differ"),
        (
            {"user": UserMessage(content="Fix the bug.\nIn b.py.")},
            r"turn 1, message 1 \(user\).*line 2, column 4",
        ),
        ({"result": RESULT.model_copy(update={"tool_call_id": "call00001"})}, "got tool 'bash' for 'call00001'"),
        ({"result": RESULT.model_copy(update={"name": "grep"})}, "got tool 'grep'"),
        ({"result": UserMessage(content=LISTING)}, "expected tool 'bash'.*got user"),
    ],
)
def test_anything_else_asked_is_refused(model, changed, says):
    with pytest.raises(ScriptMismatch, match=f"(?s){says}"):
        play(model, **changed)


@pytest.mark.parametrize(("messages", "says"), [((), "too few is user"), ((USER, USER), "too many is user")])
def test_the_number_of_messages_is_compared(model, messages, says):
    with pytest.raises(ScriptMismatch, match=says):
        step(model.open(SYSTEM, TOOLS), *messages)


def test_the_system_prompt_may_stand_in_full_and_then_its_line_is_shown(recorded):
    script = load_script(recorded).model_copy(update={"system": SYSTEM})
    with pytest.raises(ScriptMismatch, match="line 2, column 1"):
        ScriptedModel(script, COUNTER).open("You mend code.\nuse tools.", TOOLS)


def test_asking_for_more_than_is_scripted_is_refused(model):
    conversation = model.open(SYSTEM, TOOLS)
    step(conversation, USER)
    step(conversation, RESULT)
    assert conversation.finished
    with pytest.raises(ScriptMismatch, match=r"turn 3.*has 2 turns and the agent asks for one more"):
        step(conversation, USER)


def test_ending_with_unused_turns_shows(model):
    assert not model.finished
    conversation = model.open(SYSTEM, TOOLS)
    step(conversation, USER)
    conversation.close()
    assert not conversation.finished
    assert not model.finished
    with pytest.raises(ScriptMismatch, match="0 of 1 conversations played all of its 2 turns"):
        model.require_finished()
    play(model)
    assert not model.finished  # the first one still ended early


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_an_aborted_call_plays_no_turn(model, how):
    conversation = model.open(SYSTEM, TOOLS)
    conversation.add([USER])
    cancel = Event()
    if how == "cancel":
        cancel.set()
    deadline = time.monotonic() + (60 if how == "cancel" else -1)
    aborted = conversation.complete(Sampling(), deadline=deadline, cancel=cancel)
    assert aborted.finish_reason == "abort"
    assert aborted.usage == Usage()
    assert step(conversation).message.content == "I look."


def test_a_script_without_expectations_can_only_be_recorded(unrecorded):
    with pytest.raises(SettingsError, match="the system prompt, the tools, turn 1, turn 2; record it first"):
        ScriptedModel.from_file(unrecorded, COUNTER)


def test_a_recording_keeps_what_people_wrote_and_reads_by_hand(recorded):
    data = json.loads(recorded.read_text(encoding="utf-8"))
    assert data["turns"][0]["expect"] == [{"role": "user", "content": ["Fix the bug.", "In a.py."]}]
    assert data["turns"][1]["expect"][0]["content"] == LISTING.split("\n")
    assert data["turns"][0]["reply"] == SCRIPT["turns"][0]["reply"]
    assert data["turns"][1]["reply"] == SCRIPT["turns"][1]["reply"]
    assert "usage" not in data["turns"][0]
    assert data["label"] == SCRIPT["label"]


def test_recording_again_gives_the_same_bytes(recorded, tmp_path):
    recorder = ScriptRecorder.of_file(recorded, COUNTER)
    play(recorder)
    again = tmp_path / "again.json"
    recorder.save(again)
    assert again.read_bytes() == recorded.read_bytes()


def test_a_recording_that_ended_early_is_not_saved(recorded, tmp_path):
    recorder = ScriptRecorder.of_file(recorded, COUNTER)
    target = tmp_path / "target.json"
    with pytest.raises(ScriptMismatch, match="never asked"):
        recorder.save(target)
    conversation = recorder.open(SYSTEM, TOOLS)
    step(conversation, USER)
    with pytest.raises(ScriptMismatch, match="after 1 of 2"):
        recorder.save(target)
    assert not target.exists()
    with pytest.raises(ScriptMismatch, match="one conversation"):
        recorder.open(SYSTEM, TOOLS)


class Oracle:
    """A model with ids, arguments and usage of its own, as a server has them."""

    label = "openai:m@127.0.0.1:1"
    tokenizer = "own"
    tokens = 5

    def open(self, system, tools):
        return self

    def add(self, messages):
        self.asked = messages

    def complete(self, sampling, *, deadline, cancel):
        from agent.types import Completion, ToolCall

        if any(isinstance(m, ToolMessage) for m in self.asked):
            message = AssistantMessage(content="cut", tool_calls=())
            return Completion(message=message, usage=Usage(prompt=9), finish_reason="length", seconds=0)
        calls = (
            ToolCall(id="Zz9", name="bash", arguments='{"command":"ls"}'),
            ToolCall(id="Q", name="bash", arguments="{"),
        )
        usage = Usage(prompt=7, cached=1, completion=3)
        message = AssistantMessage(tool_calls=calls)
        return Completion(message=message, usage=usage, finish_reason="tool_calls", seconds=0)

    def close(self):
        pass


def test_a_real_models_answers_become_a_script_that_plays(tmp_path):
    recorder = ScriptRecorder(Oracle())
    conversation = recorder.open(SYSTEM, TOOLS)
    step(conversation, USER)
    results = [RESULT.model_copy(update={"tool_call_id": i}) for i in ("Zz9", "Q")]
    step(conversation, *results)
    conversation.close()
    path = tmp_path / "recorded.json"
    recorder.save(path)

    model = ScriptedModel.from_file(path, COUNTER)
    assert model.label == "recorded from openai:m@127.0.0.1:1; no language model ran"
    conversation = model.open(SYSTEM, TOOLS)
    first = step(conversation, USER)
    assert [c.id for c in first.message.tool_calls] == ["call00000", "call00001"]
    assert [c.arguments for c in first.message.tool_calls] == ['{"command":"ls"}', "{"]
    assert first.usage == Usage(prompt=7, cached=1, completion=3)
    second = step(conversation, *(r.model_copy(update={"tool_call_id": f"call0000{i}"}) for i, r in enumerate(results)))
    assert second.finish_reason == "length"
    assert model.finished


def test_every_label_says_that_no_model_ran():
    assert NO_MODEL in Script(label="mine", turns=[{"reply": {"content": "x"}}]).label
    assert NO_MODEL in Script(turns=[{"reply": {"content": "x"}}]).label


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Invalid JSON"),
        ("[]", "file: Input should be an object"),
        ('{"format": "other", "turns": []}', "format: "),
        ('{"turns": []}', "turns: "),
        ('{"turns": [{"reply": {"content": 1}}]}', "turns.0.reply.content"),
        ('{"turns": [{"reply": {}, "expects": []}]}', "turns.0.expects"),
    ],
)
def test_a_bad_script_is_named_with_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=says) as caught:
        load_script(path)
    assert str(path) in str(caught.value)


def test_a_missing_script_is_a_setting_to_mend(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load_script(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", "\n", "a\n", "a\n\n", "a\nb", "a\r\nb\n", "\ta \x00"])
def test_texts_survive_the_file_byte_for_byte(tmp_path, text):
    path = tmp_path / "s.json"
    script = Script(
        system=text,
        turns=[{"expect": [{"role": "user", "content": text}], "reply": {"content": text}}],
    )
    save_script(script, path)
    assert load_script(path) == script


def test_differences_point_at_the_first_one():
    assert first_difference("same", "same") == ""
    assert "line 1, column 1: expected 'a' (U+0061), got the end of the text" in first_difference("a", "")
    assert "line 2, column 1: expected the end of the text, got 'b'" in first_difference("a\n", "a\nb")
    cyrillic = first_difference("x" * 500 + "a" + "y" * 500, "x" * 500 + "\u0430" + "y" * 500)
    assert r"'\u0430' (U+0430)" in cyrillic
    assert max(map(len, cyrillic.splitlines())) < 140


@pytest.mark.parametrize("changed", ["nothing", "the answer", "the result", "the task"])
def test_a_restored_turn_is_compared_like_a_played_one(model, changed):
    first, second = play(model)
    answer = first.message.model_copy(update={"content": "I Look."} if changed == "the answer" else {})
    again = model.open(SYSTEM, TOOLS)
    again.add([USER.model_copy(update={"content": "Fix it."} if changed == "the task" else {})])
    told = RESULT.model_copy(update={"content": LISTING + " "} if changed == "the result" else {})

    def go_on():
        again.restore(answer)
        return step(again, told)

    if changed == "nothing":
        completion = go_on()
        assert (completion.message, completion.usage) == (second.message, second.usage)
        assert model.finished
    else:
        with pytest.raises(ScriptMismatch, match="recorded answer" if changed == "the answer" else "turn"):
            go_on()


def test_a_script_is_not_recorded_from_the_middle(unrecorded):
    conversation = ScriptRecorder.of_file(unrecorded, COUNTER).open(SYSTEM, TOOLS)
    with pytest.raises(ScriptMismatch, match="first turn"):
        conversation.restore(AssistantMessage(content="I look."))
