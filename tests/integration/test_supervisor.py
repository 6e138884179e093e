"""The supervisor with real children: what is started again, and what is given up."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from tests.worker_processes import wait_until
from worker import supervisor as module
from worker.exits import Exit
from worker.settings import PREFIX
from worker.supervisor import Child, NotStarted, Supervisor


@pytest.fixture
def env():
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


class Watched(Supervisor):
    """Tells how often each child was started."""

    def __init__(self, *args, **kwargs):
        self.starts = threading.Semaphore(0)
        super().__init__(*args, **kwargs)

    def _start(self, child):
        super()._start(child)
        self.starts.release()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Children run these lines of Python in place of the command line's program."""

    def write(*lines: str) -> None:
        path = tmp_path / "program"
        head = (f"#!{sys.executable}", "import os, sys, time", f"sys.path.insert(0, {str(Path.cwd())!r})")
        path.write_text("\n".join([*head, "from worker import readiness", *lines, ""]))
        path.chmod(0o755)
        monkeypatch.setattr(module.sys, "executable", str(path))

    return write


def test_a_child_whose_settings_are_wrong_is_given_up_at_once_and_in_its_words(tmp_path, env):
    """Without it this child would be started for ever, and `up` would look well."""
    over = threading.Event()
    child = Child("beat", ["beat"], tmp_path / "beat.log")
    with Supervisor([child], env=env | {f"{PREFIX}REDIS_URL": "nonsense"}, cwd=tmp_path, gave_up=over.set) as running:
        assert over.wait(60)
        assert running.refused is not None
        assert running.refused.exit is Exit.USAGE
        assert "beat can't start: unusable settings: DEVSTRAL_FIX_REDIS_URL: its scheme" in str(running.refused)
        assert (tmp_path / "beat.log").read_text().count("DEVSTRAL_FIX_REDIS_URL: its scheme") == 1


def test_starts_that_fail_are_counted_however_long_each_took(tmp_path, env, monkeypatch, program):
    """An engine that fails after minutes was started for ever."""
    monkeypatch.setattr(module, "LIFE", 0.0)
    monkeypatch.setattr(module, "STARTS", 3)
    program("time.sleep(0.7)", "readiness.failed('no GPU\\nanswers')", "sys.exit(3)")  # longer than between two looks
    over = threading.Event()
    with Watched([Child("gpu", [])], env=env, cwd=tmp_path, gave_up=over.set) as running:
        assert over.wait(60)
        refused = running.refused
        for _ in range(3):
            assert running.starts.acquire(timeout=0)
        assert not running.starts.acquire(timeout=0)
    assert refused is not None
    assert str(refused) == "gpu was given up after 3 starts that failed in a row: no GPU answers"
    assert refused.exit is Exit.UNAVAILABLE


def test_a_start_is_good_once_the_child_says_so(tmp_path, env, monkeypatch, program):
    """A worker whose engine dies now and then is always started again."""
    monkeypatch.setattr(module, "STARTS", 1)
    program("readiness.ready()", "sys.exit(1)")
    with Watched([Child("gpu", [])], env=env, cwd=tmp_path) as running:
        for _ in range(3):
            assert running.starts.acquire(timeout=60)
        assert running.refused is None


def test_a_child_that_people_ended_is_not_started_again(tmp_path, env, program):
    program("readiness.ready()", "sys.exit(0)")
    asked: list[int] = []
    child = Child("gpu", [])
    with Watched([child], env=env, cwd=tmp_path, wanted=lambda pid: bool(asked.append(pid))) as running:
        wait_until(lambda: child.over)
        assert child.process is not None
        assert asked == [child.process.pid]
        assert running.starts.acquire(timeout=0)
    assert running.refused is None
    assert not running.starts.acquire(timeout=0)


def test_a_child_that_is_killed_is_started_again(tmp_path, env):
    over = threading.Event()
    child = Child("beat", ["beat"], tmp_path / "beat.log")
    env |= {f"{PREFIX}REDIS_URL": "redis://127.0.0.1:1/0", f"{PREFIX}DATA_DIR": str(tmp_path)}
    with Watched([child], env=env, cwd=tmp_path, gave_up=over.set) as running:
        assert running.starts.acquire(timeout=60)
        assert child.process is not None
        child.process.kill()
        assert running.starts.acquire(timeout=60)
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
