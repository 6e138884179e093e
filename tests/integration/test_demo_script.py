"""The demo's script on the real sandbox: it plays, and one byte of one sandbox result that differs stops it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.protocols import Isolation, Session
from agent.tokens import TokenCounter
from agent.types import ExitStatus, Limits, Price
from tests.fakes import FakeJournal
from worker import compose
from worker.adapters.models.scripted import ScriptedModel
from worker.demo.github_double.bare import BareRepositories
from worker.demo.record import record
from worker.demo.run import SCRIPT
from worker.demo.seed import REPOSITORY, issue, project_files
from worker.errors import ScriptMismatch
from worker.settings import Settings
from worker.stages.attempt import Attempt, Solver


class OneByteOff:
    """A session that changes one byte of the first output that holds `marked`."""

    def __init__(self, session: Session, marked: str) -> None:
        self._session = session
        self._marked = marked

    def __getattr__(self, name):
        return getattr(self._session, name)

    def exec(self, *args, **kwargs):
        result = self._session.exec(*args, **kwargs)
        text = result.stdout.text
        if self._marked not in text:
            return result
        changed = text.replace(self._marked, self._marked[:-1] + chr(ord(self._marked[-1]) ^ 1), 1)
        return result.model_copy(update={"stdout": result.stdout.model_copy(update={"text": changed})})


class Tampering:
    def __init__(self, sandbox, marked):
        self._sandbox = sandbox
        self._marked = marked
        self.isolation = sandbox.isolation
        self.capabilities = sandbox.capabilities

    def open(self, spec):
        return OneByteOff(self._sandbox.open(spec), self._marked)


def play(root: Path, marked: str | None = None) -> Attempt:
    bare = BareRepositories(root / "origin")
    commit = bare.create(REPOSITORY, project_files(), "main")
    repositories = compose.make_repositories(root, allow_file=True)
    sandbox = compose.make_sandbox(Settings(isolation=Isolation.BASIC), root, repositories)
    solver = Solver(
        model=ScriptedModel.from_file(SCRIPT, TokenCounter()),
        sandbox=sandbox if marked is None else Tampering(sandbox, marked),
        repositories=repositories,
        limits=Limits(),
        price=Price(),
        review=True,
    )
    git_dir = repositories.run_dir("play", bare.path(REPOSITORY))
    title, body = issue()
    task = solver.task(git_dir, repository=REPOSITORY, number=1, title=title, body=body, commit=commit)
    return solver.solve(git_dir, task, FakeJournal(), threading.Event())


def test_the_script_plays(tmp_path):
    attempt = play(tmp_path)
    assert attempt.result.exit_status is ExitStatus.SUBMITTED
    assert [change.path for change in attempt.patch.files] == ["textkit/wrapping.py"]


def test_one_byte_of_a_sandbox_result_stops_it(tmp_path):
    with pytest.raises(ScriptMismatch, match="aaa bbc"):
        play(tmp_path, marked="aaa bbb")


def test_the_committed_script_is_what_recording_gives(tmp_path):
    record(SCRIPT, tmp_path / "script.json")
    assert (tmp_path / "script.json").read_text() == SCRIPT.read_text()
