"""Whole stories on the double: from a label to a merge, and through what goes otherwise."""

from __future__ import annotations

import pytest

from agent.outcome import Outcome
from tests.fakes import call, say
from tests.github.scene import LABEL, Scene, written
from worker.runs import pull_requests
from worker.store.acceptance import acceptance
from worker.store.models import DeliveryState, RunKind, RunState

SAID = """WRONG: new.txt was never made
CHANGED: `new.txt`: one line
RAN: ls new.txt: it is there
UNCERTAIN: nothing"""


def fixed(scene: Scene, *, content: str = "one\n", number: int | None = None) -> tuple[int, int]:
    """The numbers of an issue that was labelled and fixed, and of its pull request."""
    number = number or scene.issue()
    scene.label(number)
    run = scene.handle(call(written("new.txt", content)), say(SAID))
    assert run is not None
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.FIXED), run.reason
    with scene.store.transaction() as session:
        found = [one for one in pull_requests.described(session) if one["run_id"] == str(run.id)]
    return number, found[0]["number"]


def test_from_a_label_to_a_merge(scene: Scene, record_property) -> None:
    number = scene.issue()
    scene.double.call("POST", f"/repos/{scene.name}/issues/{number}/comments", {"body": "On Windows, too."})
    scene.label(number)
    scene.intake()
    assert scene.double.reactions(scene.name, number) == ["eyes"]
    (_, status) = scene.comments_of(number)
    assert "queued for small-24b, asked for by @octo-admin" in status
    scene.tell_of_all()
    assert scene.labels_of(number) == {LABEL, f"{LABEL}: queued"}
    run = scene.handle(call(written("new.txt", "one\n")), say(SAID))
    assert run is not None
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.FIXED), run.reason
    assert "On Windows, too." in run.issue_body
    assert scene.labels_of(number) == {f"{LABEL}: done"}, "the trigger label is ours to remove at the end"
    (pull,) = scene.double.pull_requests(scene.name)
    assert (pull["draft"], pull["head"]["ref"]) == (False, f"devstral/issue-{number}")
    for part in ("## Summary", "**What was wrong**", "## How was it tested?", "| tree | tests |", f"Fixes #{number}"):
        assert part in pull["body"], part
    assert "- [ ] I read the guide" in pull["body"]
    assert "thanks" not in pull["body"]
    record_property("pull request body", pull["body"])
    record_property("status comment", scene.comments_of(number)[-1])
    calls = [entry for entry in scene.asked() if entry.method != "GET" or "/comments" in entry.path]
    assert calls
    _review(scene, number, pull["number"])


def _review(scene: Scene, number: int, pull: int) -> None:
    before = scene.double.branch(scene.name, f"devstral/issue-{number}")
    review = scene.double.review(scene.name, pull, "Nearly.", comments=[("new.txt", 1, "Say two.")])
    comments = scene.double.review_comments(scene.name, pull)
    payload = scene.event(pull, "submitted") | {
        "review": {"id": review, "state": "changes_requested", "body": "Nearly.", "user": {"login": "octo-admin"}}
    }
    assert scene.webhook("pull_request_review", payload) == 202
    run = scene.handle(call(written("new.txt", "two\n")), say("[1] I agree.\n[2] It says two."))
    assert run is not None
    assert (run.kind, run.state, run.outcome) == (RunKind.REVISE, RunState.DELIVERED, Outcome.FIXED), run.reason
    head = scene.double.branch(scene.name, run.branch)
    assert (run.head_commit, scene.double.repositories.ahead(scene.name, "main", run.branch)) == (before, 2)
    assert scene.file(run.branch, "new.txt") == "two\n"
    answers = [one for one in scene.double.review_comments(scene.name, pull) if one["in_reply_to_id"]]
    assert [one["in_reply_to_id"] for one in answers] == [comments[0]["id"]]
    assert "It says two." in answers[0]["body"]
    assert scene.double.resolved(comments[0]["id"])
    (found,) = scene.double.pull_requests(scene.name)
    assert found["number"] == pull, "the same pull request"
    # People merge it, as it is.
    merged = scene.double.repositories.commit(scene.name, {"new.txt": "two\n"}, "main", "Merge")
    scene.double.call("PATCH", f"/repos/{scene.name}/pulls/{pull}", {"state": "closed"})
    payload = scene.event_of(pull, "closed", merged=True, merge_commit_sha=merged, head=head)
    shown = scene.pull_request(pull) | {
        "merged_at": "2026-11-27T09:00:00Z",
        "state": "closed",
        "merge_commit_sha": merged,
    }
    # Twice: the double tells of the close as well, which it knows to be no merge.
    scene.double.fault(f"GET /repos/{scene.name}/pulls/{pull}", status=200, body=shown, times=2)
    assert scene.webhook("pull_request", payload) == 202
    scene.intake()
    with scene.store.transaction() as session:
        known = pull_requests.known(session, scene.name, pull)
        assert known is not None
        assert (known.state, known.merge_commit, known.survived) == ("merged", merged, 1.0)
        (row,) = [one for one in acceptance(session, "repository") if one["key"] == scene.name]
    assert (row["merged"], row["accepted"], row["survived"]) == (1, 1.0, 1.0)


def test_a_cancel_and_another_try(scene: Scene) -> None:
    number = scene.issue()
    scene.label(number)
    scene.intake()
    scene.unlabel(number)
    scene.intake()
    (run,) = scene.runs()
    assert (run.state, run.reason) == (RunState.CANCELLED, "cancelled by octo-admin, who took the label off")
    scene.finish()
    assert "cancelled: `cancelled by octo-admin" in scene.comments_of(number)[-1]
    comment = scene.say(number, "/devstral retry with two lines")
    scene.intake()
    assert scene.double.reactions(scene.name, number, comment_id=comment) == ["eyes"]
    again = scene.handle(call(written("new.txt", "one\ntwo\n")), say(SAID))
    assert again is not None
    assert (again.id != run.id, again.outcome) == (True, Outcome.FIXED)
    assert again.issue_body.endswith("with two lines")
    assert len([c for c in scene.comments_of(number) if "devstral-fix:status" in c]) == 1, "one comment"
    assert len(scene.double.pull_requests(scene.name)) == 1


def test_a_stranger_steers_nothing(scene: Scene) -> None:
    number = scene.issue()
    for body in ("/devstral fix", "/devstral stop", "@devstral-fixer fix it"):
        scene.say(number, body, as_user="stranger")
    scene.intake()
    assert scene.runs() == []
    assert {d.state for d in scene.deliveries() if d.request} <= {DeliveryState.IGNORED}
    assert [c for c in scene.comments_of(number) if c.startswith("<!--")] == []


def test_people_s_commits_are_never_overwritten(scene: Scene) -> None:
    number, _ = fixed(scene)
    branch = f"devstral/issue-{number}"
    theirs = scene.double.repositories.commit(scene.name, {"people.txt": "mine\n"}, branch, "By hand")
    scene.label(number)
    run = scene.handle(call(written("new.txt", "three\n")), say(SAID))
    assert run is not None
    assert (run.state, scene.double.branch(scene.name, branch)) == (RunState.FAILED, theirs)
    assert "holds commits that are not from this service" in scene.comments_of(number)[-1]
    assert scene.labels_of(number) == {f"{LABEL}: failed"}


def test_checks_that_fail_are_seen_to(scene: Scene) -> None:
    number, pull = fixed(scene)
    head = scene.double.branch(scene.name, f"devstral/issue-{number}")
    assert head is not None
    output = {"title": "Tests", "summary": "1 failed: test_two"}
    check = {"name": "ci", "head_sha": head, "status": "completed", "conclusion": "failure", "output": output}
    scene.double.call("POST", f"/repos/{scene.name}/check-runs", check)
    scene.show_head(pull, head)
    payload = {
        "action": "completed",
        "check_suite": {"id": 7, "head_branch": f"devstral/issue-{number}", "head_sha": head, "conclusion": "failure"},
        "repository": {"full_name": scene.name},
        "installation": {"id": scene.double.installation_id},
        "sender": {"login": "devstral-fixer[bot]", "type": "Bot"},
    }
    assert scene.webhook("check_suite", payload) == 202
    scene.intake()
    run = scene.handle(call(written("new.txt", "two\n")), say("[1] Mended."))
    assert run is not None
    assert (run.kind, run.state) == (RunKind.REVISE, RunState.DELIVERED), run.reason
    assert any("1 failed: test_two" in str(m) for m in scene.model.conversations[0].messages)
    assert scene.double.repositories.ahead(scene.name, "main", run.branch) == 2


def test_a_webhook_that_never_came(scene: Scene) -> None:
    scene.double.receiver_url = None
    number = scene.issue()
    scene.double.add_label(scene.name, number, LABEL)
    scene.reconcile_later()
    scene.intake()
    (run,) = scene.runs()
    assert (run.requested_by, run.issue_number) == ("octo-admin", number)
    scene.reconcile_later()
    assert len(scene.deliveries()) == 1


@pytest.fixture(autouse=True)
def _counted(scene: Scene, record_property) -> None:
    yield
    record_property("calls", len(scene.asked()))
    record_property("served by our own repairs", dict(scene.repaired()))
