"""Whole runs on the real vLLM: claimed from the real queue's table, worked on in a real sandbox, booked, verified."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from agent.outcome import Outcome
from agent.protocols import Isolation
from agent.tokens import TokenCounter
from agent.types import ExitStatus, Limits, Sampling
from tests.engine_contract import until
from tests.factories import queue_run
from tests.integration.world import World
from worker.adapters.engine.admission import Capacity, KvAdmission
from worker.adapters.engine.answer import AnswerReader
from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.grammar import Marks, forced_call, forced_text
from worker.adapters.engine.vllm_host import VllmEngine
from worker.adapters.sandbox import BwrapSandbox
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store.models import Run, RunState, Spend
from worker.store.session import Store
from worker.store.steps import Step

TEST = "ls new*"


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    store = Store(database_url)
    tmp_path.chmod(0o711)
    world = World(store, tmp_path)
    world.sandbox = BwrapSandbox(tmp_path / "sandboxes", isolation=Isolation.BASIC, objects=world.repositories)
    with store.transaction() as session:
        session.execute(update(Run).values(repository_config={"test": TEST}))
    yield world
    world.heartbeat.close()
    store.close()


@pytest.fixture(scope="session")
def counter(tiny_model: Path) -> TokenCounter:
    return TokenCounter(tiny_model / "tekken.json")


def admitted(engine: VllmEngine) -> KvAdmission:
    return KvAdmission(Capacity(gpu=engine.facts.kv_tokens, context=engine.facts.max_model_len), expected=4000)


def verify(world: World) -> Run:
    verifier = Verifier(sandbox=world.sandbox, repositories=world.repositories)
    Verify(
        store=world.store,
        heartbeat=world.heartbeat,
        verifier=verifier,
        repositories=world.repositories,
        layers=world.layers,
        send=world.sent.append,
        lease_seconds=60,
    )(world.run_id)
    return world.run


def ledger(world: World) -> tuple[int, int, int, float]:
    """Calls, prompt and completion tokens, GPU-seconds of all spends."""
    columns = (Spend.prompt_tokens, Spend.completion_tokens, Spend.gpu_seconds)
    with world.store.transaction() as session:
        calls, prompt, completion, gpu = session.execute(select(func.count(), *map(func.sum, columns))).one()
    return int(calls), int(prompt), int(completion), float(gpu)


def used_since(engine: VllmEngine, before: tuple[int, int]) -> tuple[int, int]:
    return engine.tokens[0] - before[0], engine.tokens[1] - before[1]


def test_a_forced_run_goes_the_whole_way_and_is_labelled_so(
    world: World, engine: VllmEngine, counter: TokenCounter
) -> None:
    marks = Marks.of(AnswerReader(counter.load()))
    forced = (
        forced_call("bash", {"command": "cat README.md"}, marks),
        forced_call("write_file", {"path": "new.txt", "content": 'made "so"\nänd ☃\n'}, marks),
        forced_text("I made the file.\nIt is new."),
    )
    admission = admitted(engine)
    model = EngineModel(engine, counter, "tiny", forced=forced, admission=admission)
    before, busy = engine.tokens, engine.load().busy_seconds
    world.pursuer(model, admission=admission)()
    run = world.run
    assert (run.state, run.exit_status, run.summary) == (
        RunState.CONCLUDED,
        ExitStatus.SUBMITTED,
        "I made the file.\nIt is new.",
    )
    assert run.model is not None
    assert run.model.startswith("vllm:tiny (vllm 0.32.0")
    assert run.model.endswith("; forced)")
    with world.store.transaction() as session:
        steps = session.scalars(select(Step).order_by(Step.index)).all()
    assert [[action["name"] for action in step.actions] for step in steps] == [["bash"], ["write_file"], []]
    assert "hello" in steps[0].actions[0]["observation"]
    assert all(action["ok"] for step in steps for action in step.actions)
    assert model.repairs == (3, {})
    assert steps[2].cached_tokens > 0, "the third prompt begins with the second"
    calls, prompt, completion, gpu = ledger(world)
    assert (calls, prompt, completion) == (3, *used_since(engine, before))
    until(lambda: engine.load().busy_seconds - busy == pytest.approx(gpu, abs=1e-6))
    assert admission.load().holding == 0
    verified = verify(world)
    assert verified.outcome is Outcome.FIXED


def test_a_free_run_ends_unsolved_with_an_exact_ledger(world: World, engine: VllmEngine, counter: TokenCounter) -> None:
    """Random weights write noise: no answer of theirs can be used."""
    before = engine.tokens
    pursue = world.pursuer(EngineModel(engine, counter, "tiny"), limits=Limits(steps=6))
    replace(pursue, solver=replace(pursue.solver, sampling=Sampling(max_tokens=100)))()
    run = world.run
    assert run.state is RunState.CONCLUDED
    calls, prompt, completion, _ = ledger(world)
    assert (calls, prompt, completion) == (run.calls, *used_since(engine, before))
    assert (run.prompt_tokens, run.completion_tokens) == (prompt, completion)
    assert run.model is not None
    assert "forced" not in run.model
    assert verify(world).outcome is Outcome.UNSOLVED


def test_the_shares_of_runs_at_once_add_up_to_the_engines_busy_time(
    world: World, engine: VllmEngine, counter: TokenCounter
) -> None:
    with world.store.transaction() as session:
        for number in range(2, 5):
            queue_run(session, number, commit=world.commit)
    before, busy = engine.tokens, engine.load().busy_seconds
    pursue = world.pursuer(EngineModel(engine, counter, "tiny"), limits=Limits(steps=3))
    pursue = replace(pursue, solver=replace(pursue.solver, sampling=Sampling(max_tokens=100)))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(pursue) for _ in range(4)]:
            done.result(120)
    calls, prompt, completion, gpu = ledger(world)
    assert calls >= 8
    assert (prompt, completion) == used_since(engine, before)
    until(lambda: engine.load().busy_seconds - busy == pytest.approx(gpu, abs=1e-6))
