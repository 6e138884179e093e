"""GitHub in trouble while an issue is worked on: whatever fails, and however, the run ends as it should, and everything
on GitHub is there once."""

from __future__ import annotations

import pytest

from agent.outcome import Outcome
from tests.fakes import call, say
from tests.github.scene import LABEL, Scene, written
from worker.store.models import RunState

#: What the service asks of GitHub between a label and a pull request.
WRITES = {
    "reaction": "POST /repos/{name}/issues/{number}/reactions",
    "comment": "POST /repos/{name}/issues/{number}/comments",
    "comment again": "PATCH /repos/{name}/issues/comments/",
    "label": "POST /repos/{name}/issues/{number}/labels",
    "label off": "DELETE /repos/{name}/issues/{number}/labels/",
    "push": "POST /{name}.git/git-receive-pack",
    "pull request": "POST /repos/{name}/pulls",
    "check run": "POST /repos/{name}/check-runs",
    "reviewer": "POST /repos/{name}/pulls/",
    "token": "POST /app/installations/100/access_tokens",
}
LIMITED = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}
FAULTS = {
    "its answer is lost": {"status": 502, "forward": True},
    "refused before": {"status": 502},
    "secondary limit, with a wait": {"status": 403, "body": LIMITED, "headers": {"Retry-After": "30"}},
    "secondary limit, no wait": {"status": 429, "body": {"message": "Too many requests"}},
    "the connection breaks": {"drop": True},
}
#: Where a second one would be seen by people, each fault; elsewhere the two that matter.
EVERYWHERE = ("its answer is lost", "refused before")
CASES = [
    (what, fault)
    for what in WRITES
    for fault in (FAULTS if what in ("comment", "pull request", "push") else EVERYWHERE)
]


def settle(scene: Scene) -> None:
    """As the queue would: what was postponed is tried again once its time has come."""
    for _ in range(8):
        scene.time_passes()
        scene.intake()
        for run in scene.runs():
            if run.state is RunState.CONCLUDED:
                (scene.verify if run.outcome is None else scene.deliver)(run.id)
        if scene.runs() and scene.runs()[-1].state in (RunState.DELIVERED, RunState.FAILED):
            return


@pytest.mark.parametrize(("what", "fault"), CASES, ids=[f"{what}: {fault}" for what, fault in CASES])
def test_one_fault_on_the_way(scene: Scene, what: str, fault: str) -> None:
    number = scene.issue()
    path = WRITES[what].format(name=scene.name, number=number)
    scene.label(number)
    scene.double.fault(path, **FAULTS[fault])
    scene.intake()
    scene.time_passes()
    scene.intake()
    scene.tell_of_all()
    scene.pursuer(call(written("new.txt", "one\n")), say("Done."))()
    settle(scene)
    (run,) = scene.runs()
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.FIXED), run.reason
    assert scene.double.fault_is_spent(path), "the fault was never met"
    statuses = [body for body in scene.comments_of(number) if "devstral-fix:status" in body]
    assert len(statuses) == 1
    assert "**devstral-fix**: fixed: " in statuses[0]
    assert len(scene.double.pull_requests(scene.name)) == 1
    assert scene.double.repositories.ahead(scene.name, "main", run.branch) == 1
    assert LABEL not in scene.labels_of(number) or what == "label off"


def test_a_token_that_is_refused_in_mid_run(scene: Scene) -> None:
    """401: it was revoked, say, by a rotation of the App's key. Another is asked for."""
    number = scene.issue()
    scene.label(number)
    scene.intake()
    scene.pursuer(call(written("new.txt", "one\n")), say("Done."))()
    scene.double.fault(f"GET /repos/{scene.name}", status=401, body={"message": "Bad credentials"}, times=1)
    settle(scene)
    (run,) = scene.runs()
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.FIXED), run.reason


def test_github_that_is_slow(scene: Scene) -> None:
    number = scene.issue()
    scene.label(number)
    scene.double.fault(f"GET /repos/{scene.name}", status=502, delay=0.5, times=2)
    scene.intake()
    scene.pursuer(call(written("new.txt", "one\n")), say("Done."))()
    settle(scene)
    assert scene.runs()[0].state is RunState.DELIVERED
