"""What a step keeps of its model call, through Postgres, and what people see of it."""

from __future__ import annotations

import json
from array import array

import pytest
from sqlalchemy import select

from agent.generated import GeneratedIds
from agent.types import Action, AssistantMessage, CallTimes, Step, ToolCall, Usage
from tests.factories import queue_run
from tests.fakes import call, say
from tests.integration.world import World
from worker.runs import ledger, states
from worker.store import models, steps

CALL = ToolCall(id="call00000", name="bash", arguments="{}")
STEP = Step(
    index=0,
    thought="",
    actions=(Action(call=CALL, observation="ok", ok=True, seconds=0.1),),
    usage=Usage(prompt=100, cached=64, completion=7, gpu_seconds=0.25),
    usd=0.0,
    model_seconds=1.5,
    times=CallTimes(turn=0.5, queued=0.01, first=0.2, decode=0.75, again=32),
    repairs=("old_list", "old_list"),
    answer=AssistantMessage(tool_calls=(CALL,)),
    generated=GeneratedIds.of(array("i", [9, 130_000, 2]), "v1"),
)


@pytest.fixture
def lease(store):
    with store.transaction() as session:
        queue_run(session)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
    assert lease is not None
    return lease


def record(store, lease, step, model="vllm:m (vllm 1)"):
    with store.transaction() as session:
        ledger.record_step(session, lease, step, model=model)


def test_a_step_comes_back_as_it_was(store, lease):
    record(store, lease, STEP)
    with store.transaction() as session:
        assert ledger.stored_step(session.scalars(select(steps.Step)).one()) == STEP


def test_one_of_a_server_that_does_not_tell_comes_back_too(store, lease, ask):
    plain = STEP.model_copy(
        update={
            "times": None,
            "repairs": None,
            "generated": None,
            "usage": Usage(prompt=9, cache_untold=9, completion=1),
        }
    )
    record(store, lease, plain)
    with store.transaction() as session:
        assert ledger.stored_step(session.scalars(select(steps.Step)).one()) == plain
    assert "9 in (0 cached, of 9 it was not told), 1 out, 1.5 s" in ask("runs", "show", str(lease.run_id))


def test_a_run_is_shown_with_its_calls(store, lease, ask):
    record(store, lease, STEP)
    (step,) = json.loads(ask("runs", "show", str(lease.run_id), "--json"))["steps"]
    assert step["usage"] == {"prompt": 100, "cached": 64, "cache_untold": 0, "completion": 7}
    assert (step["turn_seconds"], step["queue_seconds"]) == (0.5, 0.01)
    assert (step["first_token_seconds"], step["decode_seconds"], step["gpu_seconds"]) == (0.2, 0.75, 0.25)
    assert (step["reprefilled_tokens"], step["repairs"], step["malformed"]) == (32, ["old_list", "old_list"], 0)
    assert (
        "100 in (64 cached), 7 out, 1.5 s; turn 0.50 s, queue 0.01 s, first token 0.20 s, decode 0.75 s;"
        " 0.25 GPU-seconds; 32 computed again; mended: old_list, old_list"
    ) in ask("runs", "show", str(lease.run_id))


def test_rates_are_told_by_model_version_and_kind(store, lease, ask):
    assert ask("answers").startswith("None")
    spelled = AssistantMessage(content="[TOOL_CALLS]oh", raw="[TOOL_CALLS]oh")
    refused = STEP.actions[0].model_copy(update={"ok": False, "malformed": True})
    steps = [
        ({}, "m 1"),
        ({"repairs": ()}, "m 1"),
        ({"repairs": ("trailing_text", "old_list"), "actions": (refused,)}, "m 2"),
        ({"repairs": (), "answer": spelled, "actions": ()}, "m 2"),
        ({"repairs": None, "finish_reason": "abort"}, "m 2"),  # nobody read it
    ]
    for index, (changes, model) in enumerate(steps):
        record(store, lease, STEP.model_copy(update={"index": index, **changes}), model)
    first, second = json.loads(ask("answers", "--json"))
    assert first == {
        "model": "m 1",
        "answers": 2,
        "repaired": 1,
        "malformed": 0,
        "kinds": {"old_list": [1, 0.5]},
        "repaired_rate": 0.5,
        "malformed_rate": 0.0,
    }
    assert (second["answers"], second["repaired"], second["malformed"]) == (2, 1, 2)
    assert second["kinds"] == {"old_list": [1, 0.5], "trailing_text": [1, 0.5]}
    assert "old_list 50.00%, trailing_text 50.00%" in ask("answers")
    assert json.loads(ask("answers", "--json", "--since", "2999-01-01")) == []


def test_telemetry_is_told_by_model_profile_and_prompt(store, tmp_path, ask):
    assert ask("telemetry").startswith("None")
    world = World(store, tmp_path)
    world.pursue(
        call(("bash", '{"command": "sleep 9", "timeout": 1}'), ("nonsense", "{}")),
        call(("search_replace", '{"file_path": "a.py", "content": "not a block"}')),
        call(("write_file", '{"path": "fix.py", "content": "x"}')),
        say("done"),
    )
    (told,) = json.loads(ask("telemetry", "--json"))
    assert (told["runs"], told["stuck"], told["steps"], told["first_edit"]) == (1, 0, 4, 3.0)
    assert told["calls"] == {"bash": 1, "nonsense": 1, "search_replace": 1, "write_file": 1}
    assert told["failed"] == {"bash": 1, "nonsense": 1, "search_replace": 1}
    assert (told["malformed"], told["timed_out"], told["missed_edits"]) == ({"nonsense": 1}, {"bash": 1}, 1)
    assert (told["profile"], len(told["prompt_hash"])) == ("small-24b", 64)
    assert "  calls timed out  bash 1 of 1\n" in ask("telemetry")
    assert json.loads(ask("telemetry", "--json", "--until", "2020-01-01")) == []
    world.heartbeat.close()


def test_a_run_is_inspected_and_done_again(store, tmp_path, ask):
    world = World(store, tmp_path)
    world.pursue(call(("bash", '{"command": "echo hi"}'), ("grep", "{")), say("done"), say("done"))
    run = str(world.run.id)
    told = ask("inspect", run)
    assert "recorded by devstral-fix" in told
    assert "submitted" in told
    assert "stdout: hi" in ask("inspect", run, "--step", "1")
    recorded = json.loads(ask("inspect", run, "--json"))
    assert [one["act"]["tool"] for one in recorded["steps"]] == ["bash", "grep", "answer", "submit"]
    assert [one["call"] for one in recorded["steps"]] == [0, 0, 1, 2]
    (tmp_path / "run.json").write_text(json.dumps(recorded))
    assert "4 steps: 2 the same, 2 not compared" in ask("replay", str(tmp_path / "run.json"))
    world.heartbeat.close()


def test_an_aborted_call_is_booked_with_its_share(store, tmp_path):
    """Red where an abort is no spend: it has cost GPU time all the same."""
    world = World(store, tmp_path)
    usage = Usage(prompt=100, completion=3, gpu_seconds=0.5)
    world.pursue(say("ha", finish_reason="abort", usage=usage, times=STEP.times))
    with store.transaction() as session:
        assert session.scalars(select(models.Spend.gpu_seconds)).all() == [0.5]
        (step,) = session.scalars(select(steps.Step)).all()
    assert (step.finish_reason, step.gpu_seconds, step.decode_seconds, step.repairs) == ("abort", 0.5, 0.75, None)
    world.heartbeat.close()
