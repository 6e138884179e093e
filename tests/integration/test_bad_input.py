"""Issues, repositories and models as they should not be: each run ends as is expected, in the real sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.outcome import Outcome
from agent.protocols import Isolation
from agent.types import AssistantMessage, Completion, ExitStatus, Limits, Price, Step, ToolCall, Usage
from tests.fakes import FakeJournal, FakeModel, call, say
from tests.sandboxes import git
from worker.adapters.repos import GitRepositories
from worker.adapters.sandbox import BwrapSandbox
from worker.stages import config
from worker.stages.attempt import Attempt, Solver
from worker.stages.judging import Judged, judged
from worker.stages.verification import Subject, Verifier

FIX = call(("write_file", json.dumps({"path": "fix.py", "content": "x = 1\n"})))
DONE = say("done")


def bash(command: str, **more: object) -> Completion:
    return call(("bash", json.dumps({"command": command, **more})))


def git_bytes(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", f"--git-dir={folder}", *arguments], check=True, capture_output=True).stdout


@dataclass
class Case:
    """A repository in `folder`, filled by `write`, and runs on it."""

    folder: Path
    journal: FakeJournal = field(default_factory=FakeJournal)

    def __post_init__(self) -> None:
        self.source = self.folder / "source"
        self.source.mkdir()
        git(self.source, "init", "-q", "-b", "main")
        self.write("README.md", b"hello\n")

    def write(self, name: str, content: bytes) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(
        self,
        *answers: object,
        title: str = "It is wrong",
        body: str = "Somehow.",
        window: int = 32_768,
        review: bool = False,
    ) -> tuple[Attempt, Judged]:
        git(self.source, "add", "-A")
        git(self.source, "commit", "-q", "-m", "all")
        repositories = GitRepositories(self.folder / "git", allow_file=True)
        self.git_dir = git_dir = repositories.run_dir("run", repositories.fetch("a/b", f"file://{self.source}", None))
        commit = git(self.source, "rev-parse", "HEAD")
        sandbox = BwrapSandbox(self.folder / "sandboxes", repositories, isolation=Isolation.BASIC)
        self.model = FakeModel(*answers)
        solver = Solver(
            model=self.model,
            sandbox=sandbox,
            repositories=repositories,
            limits=Limits(context_tokens=window, command_seconds=5, steps=20),
            price=Price(),
            review=review,
        )
        task = solver.task(git_dir, repository="a/b", number=1, title=title, body=body, commit=commit)
        self.prompt = ""

        def begun(agent: object) -> None:
            self.prompt = agent.prompt  # type: ignore[attr-defined]

        attempt = solver.solve(git_dir, task, self.journal, threading.Event(), starting=begun)
        settings = config.parse(repositories.read_file(git_dir, commit, config.PATH))
        verdict = judged(
            Verifier(sandbox=sandbox, repositories=repositories),
            Subject(git_dir=git_dir, repository="a/b", patch=attempt.patch, settings=settings),
            attempt.result.exit_status,
            attempt.result.summary,
            number=1,
            cancel=threading.Event(),
            record=lambda _: None,
        )
        return attempt, verdict

    def observed(self, step: int) -> str:
        return "\n".join(action.observation for action in self.step(step).actions)

    def step(self, number: int) -> Step:
        return self.journal.steps[number]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_an_empty_issue_is_said_to_be_empty(case: Case):
    attempt, _ = case.run(FIX, DONE, title="", body="")
    assert "(the issue has no text beyond its title)" in case.prompt
    assert attempt.result.exit_status is ExitStatus.SUBMITTED


def test_an_issue_of_a_megabyte_leaves_room_for_work(case: Case):
    attempt, _ = case.run(FIX, DONE, title="T" * 100_000, body="START " + "word " * 200_000 + " END", window=16_384)
    assert len(case.prompt) < 30_000
    assert "START" in case.prompt
    assert "END" in case.prompt
    assert "bytes left out" in case.prompt
    assert attempt.result.exit_status is ExitStatus.SUBMITTED


def test_a_repository_of_binaries_can_be_worked_in(case: Case):
    for number in range(3):
        case.write(f"data{number}.bin", os.urandom(20_000) + b"\0")
    attempt, _ = case.run(
        call(("read_file", '{"path": "data0.bin"}'), ("grep", '{"pattern": "x"}')), bash("cat data0.bin"), FIX, DONE
    )
    assert "is a binary file" in case.observed(0)
    assert "\0" not in case.observed(1)
    assert [change.path for change in attempt.patch.files] == ["fix.py"]


def test_without_tests_nothing_is_called_verified(case: Case):
    _, verdict = case.run(FIX, DONE)
    assert verdict.verdict.outcome is Outcome.PARTIAL
    assert "not verified" in verdict.verdict.reason
    assert verdict.evidence == ()


@pytest.mark.parametrize("content", [b"caf\xe9 = 1\nold = 2\n", b"a = 1\r\nold = 2\r\n"])
def test_bytes_around_an_edit_stay_as_they_are(case: Case, content: bytes):
    case.write("odd.py", content)
    block = "<<<<<<< SEARCH\nold = 2\n=======\nnew = 2\n>>>>>>> REPLACE"
    attempt, _ = case.run(
        call(("read_file", '{"path": "odd.py"}')),
        call(("search_replace", json.dumps({"file_path": "odd.py", "content": block}))),
        DONE,
    )
    assert case.step(1).actions[0].ok, case.observed(1)
    there = git_bytes(case.git_dir, "cat-file", "blob", f"{attempt.patch.tree}:odd.py")
    assert there == content.replace(b"old", b"new")
    assert attempt.patch.files[0].added == attempt.patch.files[0].removed == 1


def test_a_file_of_50_megabytes_is_read_in_parts_and_kept_out_of_the_change(case: Case):
    case.write("big.txt", b"one line of a large file, fifty megabytes in all\n" * 1_020_000)
    attempt, _ = case.run(
        call(("read_file", '{"path": "big.txt", "limit": 2}')),
        call(("grep", '{"pattern": "fifty", "max_matches": 3}')),
        bash("cat big.txt"),
        FIX,
        DONE,
    )
    assert "lines_read: 2" in case.observed(0)
    assert "only the first" in case.observed(0)
    assert "match_count: 3" in case.observed(1)
    assert len(case.observed(2)) < 40_000
    assert [change.path for change in attempt.patch.files] == ["fix.py"]


def test_loops_of_links_end(case: Case):
    (case.source / "loop").symlink_to(".")
    (case.source / "a").symlink_to("b")
    (case.source / "b").symlink_to("a")
    attempt, _ = case.run(
        call(("read_file", '{"path": "a"}'), ("read_file", '{"path": "loop/loop/loop/README.md"}')),
        call(("grep", '{"pattern": "hello"}'), ("read_file", '{"path": "loop"}')),
        FIX,
        DONE,
    )
    assert not case.step(0).actions[0].ok
    assert case.step(0).actions[1].ok
    assert "match_count: 1" in case.observed(1)
    assert attempt.result.exit_status is ExitStatus.SUBMITTED


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sleep 600", "the service ended it: timeout"),
        ("yes 'a long line' | head -c 3G", "the service ended it"),
    ],
)
def test_tests_that_never_end_or_flood_are_no_evidence(case: Case, command: str, said: str):
    case.write(".devstral-fix.yml", f"test: {json.dumps(command)}\ntest_timeout_seconds: 1\n".encode())
    _, verdict = case.run(FIX, DONE)
    assert verdict.verdict.outcome in (Outcome.SETUP_FAILED, Outcome.UNSOLVED), verdict.verdict
    assert verdict.evidence
    assert all(said in piece.output and len(piece.output) < 30_000 for piece in verdict.evidence)


def test_a_model_that_only_talks_changes_nothing(case: Case):
    attempt, verdict = case.run(say("I would look at the code."), say("As I said."))
    assert attempt.patch.empty
    assert verdict.verdict.outcome is Outcome.UNSOLVED
    assert "no file was changed" in verdict.verdict.reason


def test_ten_calls_at_once_all_run(case: Case):
    many = call(*[("write_file", json.dumps({"path": f"f{n}.py", "content": "x"})) for n in range(10)])
    attempt, _ = case.run(many, DONE)
    assert len(attempt.patch.files) == 10


def test_an_unknown_tool_is_answered_and_the_run_goes_on(case: Case):
    attempt, _ = case.run(call(("browser_open", '{"url": "http://a.example"}')), FIX, DONE)
    assert "there is no such tool" in case.observed(0)
    assert case.step(0).actions[0].malformed
    assert attempt.result.exit_status is ExitStatus.SUBMITTED


def test_truncated_json_is_answered_three_times_at_most(case: Case):
    torn = Completion(
        message=AssistantMessage(
            tool_calls=(ToolCall(id="call00000", name="write_file", arguments='{"path": "fix.py", "cont'),)
        ),
        usage=Usage(prompt=1),
        finish_reason="length",
        seconds=0,
    )
    attempt, verdict = case.run(torn, torn, torn)
    assert attempt.result.exit_status is ExitStatus.FORMAT_ERRORS
    assert "Answer more briefly" in case.observed(0)
    assert verdict.verdict.outcome is Outcome.UNSOLVED


def test_an_answer_in_another_language_is_kept_as_it_is(case: Case):
    attempt, verdict = case.run(FIX, say("修正しました。合計は 0 から始まります。\u202e"))
    assert attempt.result.exit_status is ExitStatus.SUBMITTED
    assert attempt.result.summary.startswith("修正しました。")
    assert verdict.verdict.outcome is Outcome.PARTIAL, "it changed something, and nothing was executed"


def test_what_is_left_over_or_would_be_refused_is_said_in_the_review(case: Case):
    """Red where `objections` leaves either out."""
    left = call(("write_file", json.dumps({"path": "reproduce.py", "content": "print(1)\n"})))
    refused = call(("write_file", json.dumps({"path": ".github/workflows/x.yml", "content": "on: push\n"})))
    attempt, verdict = case.run(FIX, left, refused, DONE, bash("rm -r .github"), DONE, review=True)
    assert "reproduce.py: it looks like a leftover" in case.step(3).note
    assert ".github/workflows/x.yml: " in case.step(3).note
    assert [change.path for change in attempt.patch.files] == ["fix.py"]
    assert verdict.verdict.outcome is Outcome.PARTIAL


def test_a_claim_in_another_language_is_none(case: Case):
    _, verdict = case.run(say("質問: どの通貨ですか?"), say("質問: どの通貨ですか?"))
    assert verdict.verdict.outcome is Outcome.UNSOLVED
    assert "no file was changed" in verdict.verdict.reason


def test_there_are_no_secrets_to_read(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEVSTRAL_FIX_GITHUB_TOKEN", "ghp_neverseen")
    attempt, _ = case.run(
        bash("env; cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'"),
        bash("cat ~/.ssh/id_rsa ~/.netrc ~/.git-credentials /root/.netrc; git config --list --show-origin"),
        bash("cat /etc/shadow"),
        FIX,
        DONE,
    )
    seen = case.observed(0) + case.observed(1)
    assert "PATH=" in seen
    assert "neverseen" not in seen
    assert "DEVSTRAL_FIX" not in seen
    assert "root:" not in case.observed(2)
    assert attempt.result.exit_status is ExitStatus.SUBMITTED, "it is no end: there is nothing to be had"


def test_a_push_goes_nowhere(case: Case):
    attempt, _ = case.run(
        bash(
            "git remote add origin https://github.com/a/b.git; git commit -qam x; git push origin HEAD:main", timeout=4
        ),
        bash("curl -sS -m 2 https://api.github.com/ || wget -T 2 https://api.github.com/"),
        FIX,
        DONE,
    )
    assert not case.step(0).actions[0].ok
    assert not case.step(1).actions[0].ok
    assert [change.path for change in attempt.patch.files] == ["fix.py"]
