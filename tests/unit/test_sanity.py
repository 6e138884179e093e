"""The questions for a deployed model: each check by table, and whole examinations of models that answer so or so."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from click.testing import CliRunner

from agent.types import AssistantMessage, ToolCall
from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.fakes import FakeConversation, FakeModel, call, say
from worker import compose
from worker.cli import cli
from worker.errors import ModelRejected, ModelUnavailable
from worker.numbers import numbers
from worker.sanity.ask import Verdict, examine, sane
from worker.sanity.checks import line_of_code, number, only_json, tool_call, word
from worker.sanity.questions import QUESTIONS, haystack

WINDOW = 2000
ALARM = ("set_alarm", '{"hour": 6, "minute": 45}')
READ = ("read_file", '{"path": "config/limits.toml"}')
PAIR = '{"city": "Paris", "legs": 8}'
RIGHT = {
    "addition": [say("7213")],
    "multiplication": [say("37 * 48 = 1,776.")],
    "division": [say("144.0")],
    "word problem": [say("369")],
    "code repair": [say("return items[-1]")],
    "forced tool call": [call(ALARM)],
    "free tool call": [call(READ), say("83")],
    "memory": [say("noted"), say("Blue"), say("5930")],
    "JSON only": [say(PAIR)],
    "German and English": [say("Schmetterling")],
    "long context": [say("71946")],
    "stop": [say("Cold.")],
}


class Forcing(FakeConversation):
    def complete_call(self, sampling, *, deadline, cancel):
        return self.complete(sampling, deadline=deadline, cancel=cancel)


class ForcingModel(FakeModel):
    def open(self, system, tools):
        super().open(system, tools)
        self.conversation = Forcing(self)
        return self.conversation


def answers(**changes):
    """The right ones, but for some; keys with underscores."""
    given = RIGHT | {name.replace("_", " "): said for name, said in changes.items()}
    return [one for question in QUESTIONS for one in given[question.name]]


def verdicts(results):
    return {result.name: result.verdict for result in results}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no digits", []),
        ("It is 1,234,567.", [1234567]),
        ("5-3 = 2", [5, 3, 2]),
        ("-4, then (2)-1 and 3.50", [-4, 2, 1, Decimal("3.5")]),
        ("١٢", []),
    ],
)
def test_numbers(text, found):
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (number(369), ["369", "408 - 39 = 369", "**369**", "369.0"], ["", "many", "3690", "369 or 370", "-369"]),
        (word("cold"), ["cold", " Cold.\n", "**COLD**"], ["", "It is cold", "cold cold", "hot"]),
        (only_json({"a": 1}), ['{"a": 1}', ' {"a":1}\n'], ["", '```json\n{"a": 1}\n```', '{"a": true}', "[" * 99_999]),
        (
            line_of_code("return items[-1]"),
            ["return items[-1]", "    return items[ -1 ]", "```python\nreturn items[-1]\n```", "`return items[-1]`"],
            ["", "return items[1]", "return items[-1]\nreturn 1", "def (", "return '\\d'", "return\0x", "x" * 999],
        ),
    ],
    ids=["number", "word", "json", "code"],
)
def test_checks(check, right, wrong):
    assert [check(text) for text in right] == [""] * len(right)
    assert all(check(text) for text in wrong)


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ([READ], ""),
        ([("read_file", '{ "path":"config/limits.toml" }')], ""),
        ([], "not 0"),
        ([READ, READ], "not 2"),
        ([("write_file", READ[1])], "a call of read_file"),
        ([("read_file", '{"path": "config/li')], "no JSON"),
        ([("read_file", '{"path": "limits.toml"}')], "expected the arguments"),
        ([("read_file", '"config/limits.toml"')], "expected the arguments"),
    ],
)
def test_a_call_is_compared_by_its_values(calls, why):
    made = tuple(ToolCall(id=f"{i:09d}", name=name, arguments=text) for i, (name, text) in enumerate(calls))
    said = tool_call(AssistantMessage(tool_calls=made), "read_file", {"path": "config/limits.toml"})
    assert why in said
    assert bool(said) == bool(why)


@pytest.mark.parametrize("tokens", [10, 300, 20_000])
def test_the_hidden_fact_is_in_the_middle_of_as_much_as_was_asked_for(tokens):
    text = haystack("The fact is 5.", tokens, lambda text: len(text.split()))
    before, after = (len(part.split()) for part in text.split("The fact is 5."))
    assert before + after == pytest.approx(tokens, abs=15 + tokens / 50)
    assert before == pytest.approx(after, abs=10 + tokens / 50)
    assert numbers(text) == [5]


def test_no_question_has_its_answer_in_it():
    for question in QUESTIONS:
        if question.check is not None and not question.hidden:
            assert question.check(question.turns[-1]), question.name


def test_a_model_that_answers_right_is_sane():
    model, told = ForcingModel(*answers()), []
    results = examine(model, window=WINDOW, told=told.append)
    assert verdicts(results) == dict.fromkeys(RIGHT, Verdict.PASSED)
    assert sane(results)
    assert told == results
    assert {(s.temperature, s.max_tokens) for s in model.samplings} == {(0.0, 256)}
    assert model.answers == []
    memory = next(result for result in results if result.name == "memory")
    assert (memory.seconds, memory.prompt, memory.completion, memory.output) == (1.5, 300, 30, "5930")


def test_where_calls_can_t_be_forced_the_question_is_not_asked():
    model = FakeModel(*answers(forced_tool_call=[]))
    results = examine(model, window=WINDOW)
    assert verdicts(results) == dict.fromkeys(RIGHT, Verdict.PASSED) | {"forced tool call": Verdict.NOT_AVAILABLE}
    assert sane(results)


WRONG = {
    "addition": [say("7214")],
    "code_repair": [say("return items[len(items)]")],
    "free_tool_call": [call(READ), say("12")],
    "memory": [say("noted"), say("Blue"), say("I do not know.")],
    "JSON_only": [say(f"Sure: {PAIR}")],
    "stop": [say("cold", usage={"prompt": 9, "completion": 13})],
}
EARLY = {
    "free_tool_call": [say("83")],
    "memory": [call(ALARM)],
    "stop": [call(ALARM)],
    "addition": [say("")],
    "division": [say("144", finish_reason="length")],
    "long_context": [ModelRejected("the prompt is too long (HTTP 400)")],
    "multiplication": [say("1776", finish_reason="abort")],
}


@pytest.mark.parametrize("changes", [WRONG, EARLY], ids=["wrong", "malformed, empty, endless, refused"])
def test_what_is_wrong_fails_and_nothing_else(changes):
    results = examine(ForcingModel(*answers(**changes)), window=WINDOW)
    failed = {name for name, verdict in verdicts(results).items() if verdict is Verdict.FAILED}
    assert failed == {name.replace("_", " ") for name in changes}
    assert all(bool(result.why) == (result.name in failed) for result in results)
    assert not sane(results)


def test_an_answer_without_an_end_is_told_as_that():
    results = examine(ForcingModel(*answers(stop=[say("cold " * 256, finish_reason="length")])), window=WINDOW)
    assert results[-1].why == "the answer did not end within 256 tokens"


def test_a_model_that_is_down_ends_the_examination():
    model = FakeModel(say("7213"), ModelUnavailable("down"))
    with pytest.raises(ModelUnavailable, match="down"):
        examine(model, window=WINDOW)
    assert model.conversation.closed


class Closed(ForcingModel):
    closed = False
    lacking = ()

    def close(self):
        self.closed = True


@pytest.fixture
def configured(monkeypatch):
    """The command's model, in place of the one that settings would name."""

    def put(*given):
        model = Closed(*given)
        monkeypatch.setattr(compose, "make_model", lambda _: model)
        return model

    return put


def run(*line, **variables):
    env = {f"DEVSTRAL_FIX_{name}": value for name, value in variables.items()}
    return CliRunner().invoke(cli, ["doctor", "--model", *line], env=env)


def test_the_command(configured):
    model = configured(*answers())
    done = run()
    assert (done.exit_code, model.closed) == (0, True), done.output
    first, second, *_, last = done.output.splitlines()
    assert first == "model: fake (no language model ran)"
    assert second == "pass    addition (0.5 s, 100 + 10 tokens): 7213"
    assert last == "12 of 12 pass"


def test_what_a_server_does_not_tell_is_said_after_its_answers(configured):
    model = configured(*answers())
    model.lacking = ["cached tokens are not told"]
    assert run().output.splitlines()[-2:] == ["12 of 12 pass", "note: cached tokens are not told"]
    model.answers = list(answers())
    assert json.loads(run("--json").output)["lacking"] == ["cached tokens are not told"]


def test_what_the_model_wrote_reaches_a_terminal_short_and_without_control_characters(configured):
    configured(*answers(addition=[say("\x1b[31m7" + "x" * 5000 + "\u202e\n7214")]))
    done = run()
    assert done.exit_code == 1
    line = done.output.splitlines()[1]
    assert "\\x1b[31m7xxx" in line
    assert "[…" in line
    assert "\\u202e\\n7214" in line
    assert len(line) < 300
    assert "11 of 12 pass" in done.output


def test_the_command_as_json(configured):
    configured(*answers(stop=[say("hot\x1b")]))
    done = run("--json")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert (found["model"], found["sane"]) == ("fake (no language model ran)", False)
    assert found["questions"][-1]["output"] == "hot\x1b"
    assert [one["verdict"] for one in found["questions"]] == ["pass"] * 11 + ["fail"]


def test_a_model_that_is_down_is_exit_3_in_words(configured):
    model = configured(ModelUnavailable("model server http://127.0.0.1:1: refused"))
    done = run()
    assert (done.exit_code, model.closed) == (3, True)
    assert "devstral-fix: model server http://127.0.0.1:1: refused" in done.output


def test_a_scripted_model_says_that_no_language_model_ran():
    done = run(MODEL="scripted:worker/demo/script.json")
    assert done.exit_code == 1
    assert "no language model ran" in done.output.splitlines()[0]
    assert done.output.splitlines()[1] == "fail    addition (0.0 s, 0 + 0 tokens): no answer"
    assert "0 of 12 pass" in done.output


def test_a_server_that_speaks_the_protocol():
    replies = []
    for answer in answers(forced_tool_call=[]):
        made = tuple((f"aB3dE6gH{i}", c.name, c.arguments) for i, c in enumerate(answer.message.tool_calls))
        replies.append(Reply(content=answer.message.content, calls=made))
    with FakeOpenAIServer(*replies) as server:
        done = run(MODEL=f"openai:{server.url}#m", LIMITS='{"context_tokens": 4000}')
        bodies = [body for _, body in server.requests]
    assert done.exit_code == 0, done.output
    assert "n/a     forced tool call: not available with this server" in done.output
    assert "11 of 11 pass; 1 not available with this server" in done.output
    needle = next(b["messages"][-1]["content"] for b in bodies if "harbour" in b["messages"][-1]["content"])
    assert 1800 < len(needle) / 4.2 < 2600  # characters of an English token
    assert {body["temperature"] for body in bodies} == {0.0}


def test_it_is_about_the_machine_or_about_the_model():
    assert run("--isolation", "basic").exit_code == 2
    assert "DEVSTRAL_FIX_MODEL is not set" in run().output
