"""What is counted, traced and told as runs go their way, against real Postgres and git."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select, update

from tests.factories import queue_run
from tests.fakes import FakeModel, call, say
from tests.integration.world import WRITE, World
from worker import wakes
from worker.errors import ModelUnavailable
from worker.observe import Metrics, Tracing, Watch
from worker.runs import batches, states
from worker.store.models import Run, RunState
from worker.store.notifications import Notification
from worker.sweep import Sweep

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)
    yield world
    world.heartbeat.close()


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def watch(spans):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Watch(metrics=Metrics(tools=frozenset({"write_file"})), tracing=Tracing(provider))


def pursue(world, watch, *answers):
    world.pursuer(FakeModel(*answers), watch=watch)()


def value(watch, name, **labels):
    return watch.metrics.registry.get_sample_value(f"devstral_fix_{name}", labels)


def test_a_run_s_calls_tools_and_claim_are_counted_and_traced(world, watch, spans):
    with world.store.transaction() as session:
        session.execute(update(Run).values(traceparent=PARENT))
    pursue(world, watch, call(WRITE), call(("write_file", "not json")), call(("made_up", "{}")), say("Done."))
    model = FakeModel.label
    assert value(watch, "claim_latency_seconds_count", profile="small-24b") == 1
    assert value(watch, "model_call_seconds_count", model=model) == 4
    assert (
        value(watch, "tokens_total", model=model, repository="acme/textkit", kind="completion")
        == world.run.completion_tokens
    )
    assert value(watch, "cost_usd_total", model=model, repository="acme/textkit") == pytest.approx(float(world.run.usd))
    engine = FakeModel().identity
    for tool in ("write_file", "other"):  # what the model made up is no label
        assert value(watch, "malformed_tool_calls_total", model=model, engine=engine, tool=tool) == 1
    found = spans.get_finished_spans()
    stage = next(span for span in found if span.name == "pursue")
    assert format(stage.context.trace_id, "032x") == PARENT.split("-")[1]
    assert format(stage.parent.span_id, "016x") == PARENT.split("-")[2]
    below = [span.name for span in found if span.parent and span.parent.span_id == stage.context.span_id]
    assert sorted(below) == ["model_call"] * 4 + ["tool"] * 3


def test_a_model_that_is_down_is_counted(world, watch):
    pursue(world, watch, ModelUnavailable("down"))
    assert value(watch, "port_errors_total", port="model", error="ModelUnavailable") == 1


def test_a_takeover_is_counted_where_it_is_found(world, watch):
    with world.store.transaction() as session:
        assert states.claim_next(session, profile="small-24b", owner="w", seconds=0) is not None
    Sweep(store=world.store, send=world.sent.append, watch=watch)()
    assert value(watch, "lease_takeovers_total") == 1


# -- what the operator's hook is told ---------------------------------------------------------------------------------


def told(store):
    with store.transaction() as session:
        return [(n.kind, n.payload) for n in session.scalars(select(Notification).order_by(Notification.id))]


def test_a_batch_s_end_is_told_once_with_its_totals(store):
    with store.transaction() as session:
        batch = batches.create(session, name="backlog", by="ann", budget=None)
        first, second = (queue_run(session, number, batch_id=batch.id) for number in (1, 2))
    with store.transaction() as session:
        states.override(session, first, RunState.CANCELLED, reason="x")
    assert told(store) == []
    with store.transaction() as session:
        states.override(session, second, RunState.FAILED, reason="ours")
    batch_told, run_told = told(store)
    assert batch_told[0] == "batch_finished"
    assert batch_told[1]["runs"] == {"cancelled": 1, "failed": 1}
    assert run_told == (
        "run_failed",
        {"run_id": str(second), "repository": "acme/textkit", "issue_number": 2, "reason": "ours"},
    )


def test_what_rolls_back_is_not_told(store):
    with store.transaction() as session:
        run_id = queue_run(session)
    with store.transaction() as session:
        states.override(session, run_id, RunState.FAILED, reason="ours")
        session.rollback()
    assert told(store) == []


def test_the_sweep_wakes_who_tells(store):
    sent: list[wakes.Wake] = []
    sweep = Sweep(store=store, send=sent.append)
    sweep()
    assert wakes.notify() not in sent
    with store.transaction() as session:
        states.override(session, queue_run(session), RunState.FAILED, reason="ours")
    replace(sweep)()
    assert wakes.notify() in sent
