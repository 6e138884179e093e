"""The supervisor with real children: what is started again, and what is given up."""

from __future__ import annotations

import os
import threading

import pytest

from worker import supervisor as module
from worker.exits import Exit
from worker.settings import PREFIX
from worker.supervisor import Child, NotStarted, Supervisor


@pytest.fixture
def env():
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def test_a_child_whose_settings_are_wrong_is_given_up_with_words(tmp_path, env, monkeypatch):
    """Without it this child would be started for ever, and `up` would look well."""
    monkeypatch.setattr(module, "REFUSALS", 2)
    over = threading.Event()
    child = Child("beat", ["beat"], tmp_path / "beat.log")
    with Supervisor([child], env=env | {f"{PREFIX}REDIS_URL": "nonsense"}, cwd=tmp_path, gave_up=over.set) as running:
        assert over.wait(60)
        assert running.refused is not None
        assert running.refused.exit is Exit.USAGE
        assert "beat ended 2 times at once with exit status 2 (its settings can't be used)" in str(running.refused)
        assert (tmp_path / "beat.log").read_text().count("DEVSTRAL_FIX_REDIS_URL: its scheme") == 2


def test_a_child_that_is_killed_is_started_again(tmp_path, env, monkeypatch):
    monkeypatch.setattr(module, "REFUSALS", 1)
    over = threading.Event()
    child = Child("beat", ["beat"], tmp_path / "beat.log")
    env |= {f"{PREFIX}REDIS_URL": "redis://127.0.0.1:1/0", f"{PREFIX}DATA_DIR": str(tmp_path)}
    again = threading.Event()
    start = Supervisor._start

    def watched(self, child):
        start(self, child)
        if child.restarts:
            again.set()

    monkeypatch.setattr(Supervisor, "_start", watched)
    with Supervisor([child], env=env, cwd=tmp_path, gave_up=over.set) as running:
        assert child.process is not None
        child.process.kill()
        assert again.wait(60)
        assert (running.refused, over.is_set()) == (None, False)


def test_children_that_can_not_be_started_are_told_and_left_behind_by_nobody(tmp_path, env):
    """It waited for ever."""
    (tmp_path / "file").touch()
    first = Child("beat", ["beat"], tmp_path / "beat.log")
    second = Child("api", ["serve"], tmp_path / "file" / "api.log")
    with pytest.raises(NotStarted, match=r"the processes can't be started: .*file"):
        Supervisor([first, second], env=env, cwd=tmp_path).__enter__()
    assert first.process is not None
    assert first.process.poll() is not None


def test_children_that_are_not_there_in_time_are_told(tmp_path, env, monkeypatch):
    monkeypatch.setattr(module, "READY_SECONDS", 0.01)
    released = threading.Event()
    monkeypatch.setattr(Supervisor, "_start", lambda *_: released.wait(60) and None)
    with pytest.raises(NotStarted, match="not there within"):
        Supervisor([Child("beat", ["beat"])], env=env, cwd=tmp_path).__enter__()
    released.set()
