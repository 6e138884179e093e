"""What a repository's owners and guides forbid, from the label to the word at the issue."""

from __future__ import annotations

import pytest

from agent.outcome import Outcome
from tests.factories import issue_request
from tests.fakes import say
from tests.integration.whole import Whole
from worker import compose
from worker.settings import Settings
from worker.stages.attempt import Solver
from worker.store.models import DeliveryState, RunState


def whole(store, tmp_path, **files):
    world = Whole(store, tmp_path, {"README.md": "hello\n", **files})
    number = world.github.open_issue()
    return world, number, world.ask(issue_request(number))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"CONTRIBUTING.md": "We do not accept AI-generated contributions.\n"}, "`CONTRIBUTING.md` seems to turn"),
        ({".devstral-fix.yml": "ai_contributions: forbidden\n"}, "this repository's settings forbid it"),
    ],
)
def test_where_machines_are_not_welcome_nothing_starts_and_the_issue_is_told(store, tmp_path, files, said):
    world, number, delivery = whole(store, tmp_path, **files)
    assert (delivery.state, world.runs()) == (DeliveryState.IGNORED, [])
    (comment,) = world.comments(number)
    assert f"not started: {said}" in comment
    world.heartbeat.close()


def test_the_owners_word_counts_first(store, tmp_path):
    guide = "We do not accept AI-generated contributions.\n"
    world, _, delivery = whole(
        store, tmp_path, **{"CONTRIBUTING.md": guide, ".devstral-fix.yml": "ai_contributions: allowed\n"}
    )
    assert delivery.state is DeliveryState.HANDLED
    world.heartbeat.close()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_repository_keeps_its_code_from_servers_elsewhere(store, tmp_path, allowed):
    """Red without the veto: the model would be asked."""
    world, number, _ = whole(store, tmp_path, **{".devstral-fix.yml": f"remote_models: {str(allowed).lower()}\n"})
    pursue = world.pursuer(say("I changed nothing."), say("Nothing."))
    object.__setattr__(pursue, "solver", Solver(**{**vars(pursue.solver), "remote": "models.example:443"}))
    pursue()
    run = world.work()
    if allowed:
        assert run.calls == 2
    else:
        assert (run.calls, run.state, run.outcome) == (0, RunState.DELIVERED, Outcome.REFUSED)
        assert "forbid model servers elsewhere (this one is models.example:443)" in world.comments(number)[0]
    world.heartbeat.close()


@pytest.mark.parametrize(
    ("model", "allow", "remote"),
    [
        ("scripted:x.json", (), None),
        ("vllm:/models/x", (), None),
        ("openai:http://127.0.0.1:1/v1#m", (), None),
        ("openai:http://8.8.8.8/v1#m", ("8.8.8.8",), "8.8.8.8:80"),
    ],
)
def test_which_servers_are_elsewhere(model, allow, remote):
    assert compose.remote_server(Settings(model=model, allow_remote_models=allow)) == remote
