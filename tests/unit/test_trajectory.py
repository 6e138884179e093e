"""The trajectory file: complete, torn, foreign."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from agent.loop import Agent
from agent.outcome import FileChange, Patch
from agent.protocols import Isolation, Journal
from agent.trajectory import FORMAT, JsonlJournal, TrajectoryError, header, load
from agent.types import ExitStatus, Limits, Price, Sampling, Task, Usage
from tests.fakes import Answer, FakeChanges, FakeModel, FakeSession, call, say, workspace
from worker.errors import SandboxUnavailable

TASK = Task(repository="a/b", issue_number=1, title="t", body="ü\u2028\n</x>", base_commit="0" * 40, files=("shop.py",))
EDIT = call(("write_file", '{"path": "fix.py", "content": "x\\n"}'))


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(tmp_path, {"shop.py": "x = 3\n"})


def record(path: Path, session: FakeSession, *answers: Answer) -> Agent:
    """A run as a composition root makes it."""
    with JsonlJournal(path) as journal:
        agent = Agent(
            FakeModel(*answers),
            session,
            journal,
            TASK,
            limits=Limits(),
            price=Price(prompt=1.0),
            sampling=Sampling(),
            cancel=threading.Event(),
            changes=FakeChanges(session.git_dir, session.snapshot()),
            review=False,
        )
        result = agent.run(lambda: journal.begin(header(agent, Isolation.BASIC)))
        change = FileChange(path="fix.py", status="A", old_mode="000000", new_mode="100644", added=1, removed=0)
        journal.end(result, Patch(base_commit="0" * 40, tree=result.final_tree, diff="+x\n", files=(change,)))
    return agent


def test_a_whole_run_comes_back_as_it_was(tmp_path: Path, session: FakeSession):
    agent = record(tmp_path / "t.jsonl", session, EDIT, say("done"))
    loaded = load(tmp_path / "t.jsonl")
    assert loaded.header.format == FORMAT
    assert loaded.header.task == TASK.model_copy(update={"files": ()})
    assert loaded.header.prompt == agent.prompt
    assert loaded.header.model == "fake (no language model ran)"
    assert len(loaded.header.prompt_hash) == 64
    assert [step.index for step in loaded.steps] == [0, 1]
    assert loaded.steps[0].actions[0].call == EDIT.message.tool_calls[0]
    assert loaded.usage == agent.result.usage == Usage(prompt=200, cached=80, completion=20)
    assert loaded.usd == pytest.approx(agent.result.usd)
    assert loaded.end.result == agent.result
    assert loaded.end.result.exit_status is ExitStatus.SUBMITTED
    assert loaded.end.patch.diff == "+x\n"
    assert not loaded.torn


def test_every_prefix_of_the_file_can_be_read(tmp_path: Path, session: FakeSession):
    record(tmp_path / "t.jsonl", session, EDIT, say("done"))
    data = (tmp_path / "t.jsonl").read_bytes()
    first = data.index(b"\n") + 1
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for size in sorted({first, first + 1, *ends, *(end - 1 for end in ends[1:]), len(data) - 40}):
        (tmp_path / "cut.jsonl").write_bytes(data[:size])
        loaded = load(tmp_path / "cut.jsonl")
        assert loaded.torn is (size not in ends)
        assert (loaded.end is None) is (size < len(data))


def test_a_line_is_on_disk_when_the_call_returns(tmp_path: Path, session: FakeSession):
    seen: list[int] = []

    def look(_deadline: float, _cancel: threading.Event):
        loaded = load(tmp_path / "t.jsonl")
        seen.extend([len(loaded.spends), len(loaded.steps)])
        return say("done")

    record(tmp_path / "t.jsonl", session, EDIT, look)
    assert seen == [1, 1]


def test_a_run_that_crashed_is_readable_up_to_there(tmp_path: Path, session: FakeSession):
    def die(_deadline: float, _cancel: threading.Event):
        session.dies = True
        return EDIT

    with pytest.raises(SandboxUnavailable):
        record(tmp_path / "t.jsonl", session, EDIT, die)
    loaded = load(tmp_path / "t.jsonl")
    assert (len(loaded.spends), len(loaded.steps), loaded.end) == (2, 1, None)


def test_an_existing_file_is_never_written_over(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text("precious")
    with pytest.raises(FileExistsError):
        JsonlJournal(tmp_path / "t.jsonl")
    assert (tmp_path / "t.jsonl").read_text() == "precious"


@pytest.mark.parametrize("change", [{"format": "devstral-fix-2"}, {"type": "other"}, {"surprise": 1}, {"task": None}])
def test_other_formats_are_named_as_such(tmp_path: Path, session: FakeSession, change: dict[str, object]):
    record(tmp_path / "t.jsonl", session, EDIT, say("done"))
    first, *rest = (tmp_path / "t.jsonl").read_text().split("\n")
    (tmp_path / "u.jsonl").write_text("\n".join([json.dumps(json.loads(first) | change), *rest]))
    with pytest.raises(TrajectoryError, match=r"u\.jsonl, line 1"):
        load(tmp_path / "u.jsonl")


@pytest.mark.parametrize("content", [b"", b"{", b"\n", b"\xff\xfe\n", b'{"type":"end"}\n'])
def test_foreign_files(tmp_path: Path, content: bytes):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(TrajectoryError):
        load(tmp_path / "x")


def test_damage_in_the_middle_is_not_taken_for_a_crash(tmp_path: Path, session: FakeSession):
    record(tmp_path / "t.jsonl", session, EDIT, say("done"))
    lines = (tmp_path / "t.jsonl").read_text().split("\n")
    lines[2] = lines[2][:-5]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    with pytest.raises(TrajectoryError, match="line 3"):
        load(tmp_path / "t.jsonl")


def test_it_is_a_journal(tmp_path: Path):
    journal: Journal = JsonlJournal(tmp_path / "t.jsonl")
    journal.checkpoint()
