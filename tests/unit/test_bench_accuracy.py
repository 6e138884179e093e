"""`bench accuracy`: the file's format, scores by table, and the command over a server of the protocol."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from click.testing import CliRunner

from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.fakes import FakeModel, say
from worker.bench.accuracy import Answer, figures, measure, table
from worker.bench.gsm8k import Problem, answered, prompt, read
from worker.cli import cli
from worker.errors import ModelUnavailable, SettingsError

# Own inventions: a gardener plants n rows of 7 bulbs, and 5 more at the gate.
LINES = [
    json.dumps({
        "question": f"Ida plants {n} rows of 7 bulbs, and 5 bulbs at the gate. How many bulbs?",
        "answer": f"{n} rows are {n} * 7 = {7 * n} bulbs.\nAnd {7 * n} + 5 = {7 * n + 5}.\n#### {7 * n + 5:,}",
    })
    for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 200)
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_the_first_eight_are_the_examples(file):
    data = read(file)
    assert [one.line for one in data.examples] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [one.number for one in data.problems] == [75, 82, 89, 1405]
    text = prompt(data.examples, data.problems[0])
    assert text.count("Question: ") == text.count("\nAnswer:") == 9
    assert text.startswith("Question: Ida plants 2 rows")
    assert "\n#### 19\n\nQuestion: Ida plants 3 rows" in text
    assert text.endswith("Question: Ida plants 10 rows of 7 bulbs, and 5 bulbs at the gate. How many bulbs?\nAnswer:")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "no JSON"),
        (b"[" * 99_999, "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"question": "q\xff", "answer": "#### 1"}', "not UTF-8"),
        (b'{"question": "q"}', '"answer" is no text'),
        (b'{"question": 1, "answer": "#### 1"}', '"question" is no text'),
        (b'{"question": " ", "answer": "#### 1"}', '"question" is no text'),
        (b'{"question": "q", "answer": "18"}', "#### NUMBER"),
        (b'{"question": "q", "answer": "#### 18\\nSo."}', "#### NUMBER"),
        (b'{"question": "q", "answer": "#### many"}', "#### NUMBER"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(tmp_path, line, why):
    path = tmp_path / "bad.jsonl"
    path.write_bytes("\n".join(LINES[:9]).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(SettingsError, match="line 11: ") as refused:
        read(path)
    assert why in str(refused.value)
    done = CliRunner().invoke(cli, ["bench", "accuracy", str(path)])
    assert done.exit_code == 2
    assert "line 11" in done.output


def test_a_file_of_examples_alone_is_refused(tmp_path):
    path = tmp_path / "short.jsonl"
    path.write_text("\n".join(LINES[:8]), encoding="utf-8")
    with pytest.raises(SettingsError, match="has 8 problems"):
        read(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("16 - 3 = 13, and 13 * 2 = 26.\n#### 26", 26),
        ("It costs $1,234.50.", Decimal("1234.5")),
        ("#### 18.00", 18),
        ("It is -7", -7),
        ("", None),
        ("I don't know.", None),
        ("#### 18\n\nQuestion: Ida has 5 bulbs.\nAnswer: 5", 18),
        ("Question: restated with 3. Answer: 4", 4),
    ],
)
def test_an_answer_s_number_is_its_last(text, number):
    assert answered(text) == number


def one(found, *, expected=5, seconds=1.0, completion=10, finish="stop"):
    problem = Problem(9, "q", f"#### {expected}", Decimal(expected))
    return Answer(
        problem=problem,
        text="",
        found=None if found is None else Decimal(found),
        finish=finish,
        completion=completion,
        seconds=seconds,
    )


@pytest.mark.parametrize(
    ("found", "accuracy", "invalid"),
    [([5], 1, 0), ([4], 0, 0), ([None], 0, 1), ([5, "5.0", 6, None], 0.5, 0.25)],
)
def test_scores(found, accuracy, invalid):
    scored = figures([one(each) for each in found], 2.0)
    assert (scored["accuracy"], scored["invalid"]) == (accuracy, invalid)


def test_times_and_tokens():
    scored = figures([one(5, seconds=s, completion=20) for s in (1.0, 2.0, 9.0)] + [one(5, finish="length")], 10.0)
    assert scored["latency_seconds"] == {"mean": 3.25, "p50": 1.0, "p99": 9.0}
    assert (scored["output_tokens"], scored["output_throughput"], scored["cut"]) == (70, 7.0, 0.25)


def test_failed_requests_are_counted_and_not_scored(file):
    model = FakeModel(say("75"), ModelUnavailable("busy"), say("none"), say("#### 1,405", finish_reason="length"))
    found = measure(model, read(file), limit=None, concurrency=1)
    assert [answer["right"] for answer in found["answers"]] == [True, False, True]
    assert (found["answered"], found["failures"]) == (3, {"ModelUnavailable": 1})
    assert (found["accuracy"], found["invalid"], found["cut"]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    assert {(s.temperature, s.max_tokens) for s in model.samplings} == {(0.0, 512)}
    said = table(found)
    assert "fake (no language model ran)" in said.splitlines()[0]
    assert "| Accuracy | 0.667 | 0.922 |" in said
    assert "| Failed requests | 1 |" in said


def test_when_none_was_answered_it_says_why(file):
    with pytest.raises(ModelUnavailable, match="busy"):
        measure(FakeModel(*[ModelUnavailable("busy")] * 4), read(file), limit=None, concurrency=2)


def test_the_command(file, tmp_path):
    out = tmp_path / "found.json"
    with FakeOpenAIServer(*[Reply(content="So it is 82.")] * 3) as server:
        line = ["bench", "accuracy", str(file), "--model", f"openai:{server.url}#m", "--limit", "3"]
        done = CliRunner().invoke(cli, [*line, "--concurrency", "3", "--json", str(out)])
        asked = sorted(body["messages"][-1]["content"] for _, body in server.requests)
    assert done.exit_code == 0, done.output
    assert asked == sorted(prompt(read(file).examples, each) for each in read(file).problems[:3])
    found = json.loads(out.read_text("utf-8"))
    assert [answer["right"] for answer in found["answers"]] == [False, True, False]
    assert [answer["line"] for answer in found["answers"]] == [9, 10, 11]
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["output_tokens"] == 15
    assert "| Accuracy | 0.333 | 0.922 |" in done.output


def test_a_server_that_is_not_there_is_exit_3(file):
    done = CliRunner().invoke(cli, ["bench", "accuracy", str(file), "--model", "openai:http://127.0.0.1:1/v1#m"])
    assert done.exit_code == 3
    assert "127.0.0.1:1" in done.output


def test_a_scripted_model_is_none_that_can_be_measured(file):
    script = "scripted:worker/demo/script.json"
    done = CliRunner().invoke(cli, ["bench", "accuracy", str(file), "--model", script])
    assert done.exit_code == 1
    assert "differs from what the script expects" in done.output
