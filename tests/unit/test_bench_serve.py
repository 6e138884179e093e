"""`bench serve` over a simulated engine and over a server that streams; and the commands around both benchmarks."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from tests.simulated_engine import SimulatedEngine
from worker.adapters.engine.shapes import write_model
from worker.bench import opening
from worker.bench.serve import Answered, InProcess, Prompts, Server, figures, measure, table
from worker.cli import cli
from worker.errors import ModelUnavailable


def test_figures_by_hand():
    answers = [
        Answered(prompt=100, generated=11, first=0.1, seconds=1.1, tpot=0.1, gaps=(0.1,) * 9 + (0.2,)),
        Answered(prompt=300, generated=1, first=0.3, seconds=0.3, tpot=None),
        Answered(prompt=200, generated=21, first=0.2, seconds=4.2, tpot=0.2, gaps=(0.2,) * 20),
    ]
    found = figures(answers, 5.0, concurrency=2)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (600, 33)
    assert found["request_throughput"] == pytest.approx(0.6)
    assert found["output_throughput"] == pytest.approx(6.6)
    assert found["total_throughput"] == pytest.approx(126.6)
    assert found["concurrency"] == pytest.approx(5.6 / 5)
    assert found["ttft_ms"] == pytest.approx({"mean": 200, "median": 200, "p99": 300})
    assert found["tpot_ms"] == pytest.approx({"mean": 150, "median": 150, "p99": 200})
    assert found["itl_ms"] == pytest.approx({"mean": 170, "median": 200, "p99": 200})
    assert "| P99 ITL (ms) | 200.00 |" in table([found | {"failures": {}}])


def test_prompts_keep_their_lengths_and_change_their_tokens():
    prompts = Prompts(seed=3)
    one, other = prompts.asks(16, "a"), prompts.asks(16, "b")
    assert len(one) == 64
    assert [(len(a.ids), a.answer) for a in one] == [(len(a.ids), a.answer) for a in other]
    assert all(a.ids != b.ids for a, b in zip(one, other, strict=True) if len(a.ids) > 3)
    assert all(1 <= len(a.ids) <= 1000 and 1 <= a.answer <= 1000 for a in one)
    assert prompts.asks(16, "a") == one
    assert min(min(a.ids) for a in one) >= 1000


def test_an_engine_in_this_process():
    engine = SimulatedEngine(decode_seconds=1e-5)
    prompts = Prompts(count=40)
    found = measure(InProcess(engine), 8, prompts)
    assert engine.most_running == 8
    assert found["completed"] == 40
    assert found["total_output_tokens"] == sum(ask.answer for ask in prompts.asks(8, "measured"))
    assert found["itl_ms"] is None
    assert "ITL is left out" in table([found])


def test_failed_requests_are_counted_and_when_all_fail_it_says_why():
    found = measure(InProcess(SimulatedEngine(fails_every=10, decode_seconds=1e-6)), 4, Prompts(count=40))
    assert found["failures"] == {"ModelUnavailable": 4}
    assert found["completed"] == 36
    dead = SimulatedEngine()
    dead.shutdown()
    with pytest.raises(ModelUnavailable, match="shut down"):
        measure(InProcess(dead), 4, Prompts(count=4))


class Streams(BaseHTTPRequestHandler):
    """A completions endpoint: a piece per token, then the usage."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["ignore_eos"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in ["x"] * body["max_tokens"]:
            self._event({"choices": [{"index": 0, "text": text, "finish_reason": None}]})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"], "total_tokens": 0}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, data):
        self.wfile.write(b"data: " + json.dumps({"id": "1", "object": "text_completion"} | data).encode() + b"\n\n")

    def log_message(self, *_):
        pass


@contextmanager
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Streams) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/v1"
        finally:
            listening.shutdown()
            thread.join()


def test_a_server_is_measured_from_outside_with_the_gaps_between_tokens():
    prompts = Prompts(count=6)
    with server() as url, Server(url, "m") as target:
        found = measure(target, 2, prompts)
    asks = prompts.asks(2, "measured")
    assert found["failures"] == {}
    assert found["total_input_tokens"] == sum(len(ask.ids) for ask in asks)
    assert found["total_output_tokens"] == sum(ask.answer for ask in asks)
    assert found["itl_ms"]["mean"] > 0
    assert found["ttft_ms"]["p99"] <= found["e2e_latency_ms"]["p99"]


class BareEngine(SimulatedEngine):
    def __init__(self, **given):
        super().__init__(**given)
        self.grammars = []

    def generate(self, request, **given):
        self.grammars.append(request.grammar)
        return super().generate(request, **given)

    def bare(self, requests, *, concurrency):
        return 1.0, [self.generate(request, deadline=float("inf")) for request in requests]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model's directory, and a simulated engine where vLLM would be."""
    seen, engines = [], []

    @contextmanager
    def opened(options):
        seen.append(options)
        engine = BareEngine(max_model_len=options.max_model_len, decode_seconds=1e-6)
        engines.append(engine)
        yield engine
        engine.shutdown()

    monkeypatch.setattr(opening, "opened", opened)
    return write_model(tmp_path / "model", "tiny"), seen, engines


def test_the_command_serve(model, tmp_path):
    directory, seen, _ = model
    line = ["bench", "serve", "--model", str(directory), "--dummy-weights", "--concurrency", "1,4", "--prompts", "8"]
    line += ["--bare", "--engine-arg", "async_scheduling=false", "--json", str(tmp_path / "o" / "found.json")]
    done = CliRunner().invoke(cli, [*line, "--out", str(tmp_path / "raw")])
    assert done.exit_code == 0, done.output
    assert (seen[0].extra, seen[0].dummy_weights, seen[0].max_model_len) == ({"async_scheduling": False}, True, 4096)
    found = json.loads((tmp_path / "o" / "found.json").read_text("utf-8"))
    assert [one["max_concurrency"] for one in found] == [1, 4]
    assert found[0]["of_bare"] == pytest.approx(found[0]["output_throughput"] / found[0]["bare_output_throughput"])
    assert len((tmp_path / "raw" / "serve.jsonl").read_text("utf-8").splitlines()) == 2
    assert "of the bare engine's" in done.output


def test_the_command_constrained(model, tmp_path):
    directory, _, engines = model
    line = ["bench", "constrained", "--model", str(directory), "--concurrency", "1,4", "--tokens", "20"]
    done = CliRunner().invoke(cli, [*line, "--json", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert [(one["free"]["generated"], one["constrained"]["generated"]) for one in found] == [(40, 40), (160, 160)]
    assert found[0]["tpot_ratio"] == pytest.approx(found[0]["constrained"]["tpot_ms"] / found[0]["free"]["tpot_ms"])
    held = [grammar for grammar in engines[0].grammars if grammar]
    assert len(held) == len(engines[0].grammars) / 2 == 1 + 2 + 1 + 8  # each grammar compiled by one before
    assert all("search_replace" in grammar for grammar in held)
    assert "| at once |" in done.output


def test_the_command_agents(model, tmp_path):
    directory, seen, _ = model
    line = ["bench", "agents", "--model", str(directory), "--workload", "W1", "--in-flight", "2,3", "--modes", "plain"]
    line += ["--window", "1", "--ramp", "0", "--gpu", "H100", "--json", str(tmp_path / "found.json")]
    done = CliRunner().invoke(cli, [*line, "--kv-cache-dtype", "fp8", "--out", str(tmp_path / "raw")])
    assert done.exit_code == 0, done.output
    assert (seen[0].kv_cache_dtype, seen[0].max_model_len) == ("fp8", 32_768)
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert [one["in_flight"] for one in found] == [2, 3]
    assert found[0]["config"]["kv_cache_dtype"] == "fp8"
    assert found[0]["plans"] in done.output
    assert "trajectories/hour" in done.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["serve"], "--server URL"),
        (["serve", "--server", "http://x"], "--name NAME"),
        (["serve", "--server", "http://x", "--name", "m", "--concurrency", "1,b"], "no list of numbers"),
        (["serve", "--server", "http://x", "--name", "m", "--bare"], "--bare"),
        (["agents", "--model", ".", "--modes", "plain,fast"], "'fast' is none of"),
        (["agents", "--model", ".", "--engine-arg", "x"], "NAME=JSON"),
    ],
)
def test_wrong_usage_is_told(line, message):
    done = CliRunner().invoke(cli, ["bench", *line])
    assert done.exit_code == 2
    assert message in done.output
