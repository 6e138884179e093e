"""Metrics over real HTTP, and traces whose context goes through text, as it goes through rows."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.outcome import Outcome
from agent.types import AssistantMessage, CallTimes, Step, Usage
from worker.errors import AddressUnavailable, SettingsError
from worker.observe import Metrics, Tracing, Watch
from worker.observe.exposition import address, exposed


def scrape(metrics: Metrics) -> dict[str, float]:
    with exposed(metrics.registry, "127.0.0.1:0") as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in rows if "_created" not in name}


def test_what_was_counted_is_shown() -> None:
    metrics = Metrics(tools=frozenset({"bash"}))
    metrics.claimed("small-24b", 0.02)
    metrics.run_ended(state="delivered", outcome=Outcome.FIXED, kind="fix", profile="small-24b")
    metrics.spent("m", "acme/textkit", Usage(prompt=100, cached=90, completion=5), 0.25)
    metrics.spent("m", "acme/textkit", Usage(prompt=7, cache_untold=7), 0.0)
    metrics.malformed_call("m", "vllm 1", "bash")
    metrics.port_failed("sandbox", OSError("secret"))
    shown = scrape(metrics)
    assert shown['devstral_fix_claim_latency_seconds_bucket{le="0.025",profile="small-24b"}'] == 1
    assert shown['devstral_fix_claim_latency_seconds_bucket{le="0.01",profile="small-24b"}'] == 0
    ended = 'devstral_fix_runs_ended_total{kind="fix",outcome="fixed",profile="small-24b",state="delivered"}'
    assert shown[ended] == 1
    tokens = 'devstral_fix_tokens_total{{kind="{}",model="m",repository="acme/textkit"}}'
    assert [shown[tokens.format(kind)] for kind in ("prompt_uncached", "cached", "completion")] == [10, 90, 5]
    assert shown[tokens.format("prompt_cache_untold")] == 7
    assert shown['devstral_fix_cost_usd_total{model="m",repository="acme/textkit"}'] == 0.25
    assert shown['devstral_fix_malformed_tool_calls_total{engine="vllm 1",model="m",tool="bash"}'] == 1
    assert not any("secret" in name for name in shown)


def test_the_cost_is_a_sum_of_whole_millionths() -> None:
    metrics = Metrics()
    for usd in (0.1, 0.2, 0.0000014):
        metrics.spent("m", "acme/textkit", Usage(), usd)
    assert scrape(metrics)['devstral_fix_cost_usd_total{model="m",repository="acme/textkit"}'] == 0.300001


def test_a_name_that_a_model_invented_is_no_label() -> None:
    metrics = Metrics(tools=frozenset({"bash"}))
    for name in ("made_up_1", "made_up_2"):
        metrics.malformed_call("m", "e", name)
    assert scrape(metrics)['devstral_fix_malformed_tool_calls_total{engine="e",model="m",tool="other"}'] == 2


def test_a_call_s_parts_are_shown_by_model() -> None:
    metrics = Metrics()
    times = CallTimes(turn=0.3, queued=0.02, first=0.2, decode=2.0, again=64)
    metrics.generated("m", Usage(prompt=100, completion=101), times)
    metrics.generated("m", Usage(prompt=100), CallTimes(turn=0.0, queued=0.0, first=0.0, decode=0.0))  # aborted early
    shown = scrape(metrics)
    part = 'devstral_fix_engine_call_seconds_{}{{model="m",part="{}"}}'
    sums = {name: shown[part.format("sum", name)] for name in ("turn", "queue", "first_token", "decode")}
    assert sums == {"turn": 0.3, "queue": 0.02, "first_token": 0.2, "decode": 2.0}
    assert [shown[part.format("count", name)] for name in ("turn", "first_token")] == [2, 1]
    assert shown['devstral_fix_decode_token_seconds_sum{model="m"}'] == pytest.approx(0.02)
    assert shown['devstral_fix_decode_token_seconds_count{model="m"}'] == 1
    assert shown['devstral_fix_reprefilled_tokens_total{model="m"}'] == 64


def test_repairs_and_what_could_not_be_read_are_counted() -> None:
    watch = Watch()
    step = Step(index=0, thought="", actions=(), usage=Usage(), usd=0.0, model_seconds=0.0, repairs=("old_list",))
    watch.stepped(step, model="m", engine="e")
    spelled = AssistantMessage(content="[TOOL_CALLS]oh", raw="[TOOL_CALLS]oh")
    watch.stepped(step.model_copy(update={"repairs": (), "answer": spelled}), model="m", engine="e")
    shown = scrape(watch.metrics)
    assert shown['devstral_fix_answers_total{model="m"}'] == 2
    assert shown['devstral_fix_answer_repairs_total{kind="old_list",model="m"}'] == 1
    assert shown['devstral_fix_malformed_tool_calls_total{engine="e",model="m",tool="other"}'] == 1


def test_without_an_address_nothing_listens() -> None:
    with exposed(Metrics().registry, None) as port:
        assert port is None


def test_the_port_is_free_again_afterwards() -> None:
    with exposed(Metrics().registry, "127.0.0.1:0") as port:
        assert port is not None
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))


@pytest.mark.parametrize("listen", ["9101", ":9101", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:1"])
def test_an_address_that_is_none_is_told(listen: str) -> None:
    with pytest.raises(SettingsError, match="DEVSTRAL_FIX_METRICS_LISTEN"), exposed(Metrics().registry, listen):
        pass


def test_addresses_of_both_kinds() -> None:
    assert address("[::1]:9101") == ("::1", 9101)
    assert address("metrics.internal:0") == ("metrics.internal", 0)


def test_an_address_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressUnavailable, match="can't be had"), exposed(Metrics().registry, listen):
            pass


# -- traces -----------------------------------------------------------------------------------------------------------


def tracing() -> tuple[Tracing, InMemorySpanExporter]:
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider), spans


def test_a_trace_goes_on_in_another_process() -> None:
    here, first = tracing()
    with here.span("webhook", server=True, repository="acme/textkit", nothing=None) as root:
        kept = root.traceparent
    there, second = tracing()
    with there.span("pursue", parent=kept):
        there.past("model_call", 2.0, tokens=7)
    (webhook,) = first.get_finished_spans()
    call, pursue = second.get_finished_spans()
    assert webhook.context
    assert pursue.context
    assert pursue.parent
    assert call.parent
    assert pursue.context.trace_id == call.context.trace_id == webhook.context.trace_id
    assert pursue.parent.span_id == webhook.context.span_id
    assert call.parent.span_id == pursue.context.span_id
    assert call.start_time
    assert call.end_time
    assert call.end_time - call.start_time == 2_000_000_000
    assert dict(webhook.attributes or {}) == {"devstral_fix.repository": "acme/textkit"}


def test_a_failure_is_marked_by_its_type_alone() -> None:
    here, spans = tracing()
    with pytest.raises(ValueError, match="a stranger"), here.span("pursue"):
        raise ValueError("a stranger's words")
    (span,) = spans.get_finished_spans()
    assert (span.status.is_ok, span.status.description, span.events) == (False, "ValueError", ())


def test_tracing_is_off_by_default() -> None:
    off = Tracing.to(None, role="gpu")
    with off.span("webhook") as root:
        off.past("model_call", 1.0)
        assert root.traceparent is None
    off.close()


@contextmanager
def collector() -> Iterator[tuple[str, list[int]]]:
    """A real server that answers as the list says; its address."""
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()
    thread.join()


def sent(here: Tracing, times: int) -> None:
    for _ in range(times):
        with here.span("pursue"):
            pass
        here._provider.force_flush()  # type: ignore[attr-defined]


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_collector_that_refuses_is_told_once_and_so_is_its_recovery(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving `Telling` out turns this red: each try is a line then."""
    with collector() as (endpoint, answers):
        here = Tracing.to(endpoint, role="gpu")
        answers += [404, 404, 404, 200, 200, 404, 404]
        sent(here, 3)
        assert events(caplog) == ["traces_not_sent"]
        assert "404" in caplog.records[0].why  # type: ignore[attr-defined]
        sent(here, 2)
        assert events(caplog) == ["traces_not_sent", "traces_sent_again"]
        assert caplog.records[1].spans_lost == 3  # type: ignore[attr-defined]
        sent(here, 2)
        assert events(caplog)[2:] == ["traces_not_sent"]
        here.close()


def test_a_collector_that_is_away_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    here = Tracing.to("http://127.0.0.1:1", role="gpu")
    sent(here, 2)
    assert events(caplog) == ["traces_not_sent"]
    here.close()
    assert events(caplog) == ["traces_not_sent"]
