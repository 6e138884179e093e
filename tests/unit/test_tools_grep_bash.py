"""`grep` and `bash` with real programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import ToolFailure
from agent.protocols import Captured, ExecResult, ExecStatus
from agent.tools import default_tools
from agent.tools.base import spec
from agent.tools.bash import Bash, BashParameters
from agent.tools.grep import Grep, GrepParameters
from agent.types import Limits
from tests.fakes import FakeSession, workspace


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(
        tmp_path,
        {
            "b.py": "def Foo():\n    return 1\n",
            "a.py": "foo = 2\n# foo\n",
            "sub/c.py": "x = foo(3)\n",
            "-dash.py": "foo\n",
            "node_modules/m/index.js": "foo\n",
            "blob.bin": b"foo\0foo\n",
            "long.js": "foo" + "x" * 100_000 + "\n",
        },
    )


def grep(session: FakeSession, pattern: str, *, tool: Grep | None = None, **params: object) -> str:
    return (tool or Grep()).run(session, GrepParameters.model_validate({"pattern": pattern} | params))


def bash(session: FakeSession, command: str, *, tool: Bash | None = None, **params: object) -> str:
    return (tool or Bash(command_seconds=20)).run(session, BashParameters.model_validate({"command": command} | params))


def failed(session: FakeSession, command: str, **params: object) -> str:
    with pytest.raises(ToolFailure) as caught:
        bash(session, command, **params)
    return str(caught.value)


def test_matches_are_file_line_text_in_a_stable_order(session: FakeSession):
    (session.root / "long.js").unlink()
    assert grep(session, "foo") == (
        "matches: -dash.py:1:foo\na.py:1:foo = 2\na.py:2:# foo\nb.py:1:def Foo():\nsub/c.py:1:x = foo(3)\n"
        "match_count: 5\nwas_truncated: False"
    )


def test_a_capital_letter_makes_it_case_sensitive_an_escape_does_not(session: FakeSession):
    assert "match_count: 1\n" in grep(session, "Foo")
    assert "b.py:1:def Foo():" in grep(session, r"def\Sfoo|\bfoo\(\)")


def test_perl_classes_work(session: FakeSession):
    assert "matches: sub/c.py:1:x = foo(3)\n" in grep(session, r"\(\d\)")


def test_one_file_one_directory_and_absolute_paths(session: FakeSession):
    assert "matches: sub/c.py:1:" in grep(session, "foo", path="sub")
    assert "matches: sub/c.py:1:" in grep(session, "foo", path="/workspace/sub/c.py")


def test_ignored_directories_can_be_searched_on_request(session: FakeSession):
    assert "node_modules" not in grep(session, "foo")
    assert "node_modules/m/index.js:1:foo" in grep(session, "foo", use_default_ignore=False)


def test_max_matches_and_long_lines(session: FakeSession):
    text = grep(session, "foo", max_matches=2)
    assert "match_count: 2\nwas_truncated: True" in text
    assert "more characters]" in grep(session, "foo", path="long.js")
    assert len(grep(session, "foo", path="long.js")) < 1000


def test_the_reply_is_bounded_in_bytes(session: FakeSession):
    session.write("many.txt", b"foo bar\n" * 5000)
    text = grep(session, "foo", tool=Grep(max_bytes=1000), path="many.txt", max_matches=4000)
    assert len(text) < 1100
    assert "was_truncated: True" in text


def test_no_match_is_an_answer(session: FakeSession):
    assert grep(session, "absent") == "matches: \nmatch_count: 0\nwas_truncated: False"


@pytest.mark.parametrize(
    ("pattern", "path", "said"),
    [
        ("foo(", ".", "can't be searched"),
        ("foo", "gone", "does not exist"),
        ("foo", "/etc", "outside"),
        ("a\nb", ".", "one line"),
    ],
)
def test_what_can_not_be_searched_is_said(session: FakeSession, pattern: str, path: str, said: str):
    with pytest.raises(ToolFailure, match=said):
        grep(session, pattern, path=path)


def test_patterns_reach_no_shell_and_no_option(session: FakeSession):
    grep(session, "$(touch hacked)")
    grep(session, "--help")
    grep(session, "foo", path="-dash.py")
    assert not (session.root / "hacked").exists()


def test_symlink_loops_and_pipes_end(session: FakeSession):
    (session.root / "loop").symlink_to(".")
    bash(session, "mkfifo pipe")
    assert "match_count: " in grep(session, "foo")
    assert "match_count: 0" in grep(session, "foo", path="pipe")


def test_a_grep_without_perl_expressions_falls_back(session: FakeSession):
    class OldGrep(FakeSession):
        def exec(self, argv, **options):
            if "-P" in argv:
                text = "grep: support for the -P option is not compiled into this binary"
                stderr = Captured(text=text, total_bytes=len(text))
                return ExecResult(status=ExecStatus.EXIT, returncode=2, stdout=Captured(), stderr=stderr, seconds=0.0)
            return super().exec(argv, **options)

    assert "match_count: 1" in grep(OldGrep(session.root, session.git_dir), "foo", path="sub")


def test_success_shows_both_streams(session: FakeSession):
    assert bash(session, "echo out; echo err >&2") == "stdout: out\n\nstderr: err\n\nreturncode: 0"


def test_failure_shows_command_code_and_streams(session: FakeSession):
    assert failed(session, "echo out; echo err >&2; exit 3") == (
        "Command failed: 'echo out; echo err >&2; exit 3'\nReturn code: 3\nStderr: err\n\nStdout: out\n"
    )


def test_every_call_is_a_new_quiet_shell(session: FakeSession):
    bash(session, "cd sub; export A=1")
    assert bash(session, 'pwd; echo "A=$A $PAGER $TERM"').splitlines()[:2] == [
        f"stdout: {session.root.resolve()}",
        "A= cat dumb",
    ]
    assert "stdout: \n" in bash(session, "cat")  # no input to wait for


def test_a_timeout_is_said_and_kills_everything(session: FakeSession):
    mine = f"sleep 600.{os.getpid()}"  # a number of this test's own: other tests on this machine sleep, too
    said = failed(session, f"echo before; (setsid {mine} &) ; {mine}", timeout=1)
    assert "stopped after 1 s" in said
    assert "Stdout: before" in said
    assert bash(session, f"pgrep -fx '{mine}' || true").startswith("stdout: \n")


def test_the_timeout_is_capped_by_the_service(session: FakeSession):
    assert "stopped after 1 s" in failed(session, "sleep 600", tool=Bash(command_seconds=1), timeout=500)


def test_long_output_keeps_head_and_tail(session: FakeSession):
    text = bash(session, "seq 1 100000; echo problem >&2")
    assert text.startswith("stdout: 1\n2\n")
    assert "99999\n100000\n" in text
    assert "bytes left out" in text
    assert "stderr: problem" in text
    assert len(text) < 16_500


def test_both_streams_share_the_room(session: FakeSession):
    said = failed(session, "seq 1 100000; seq 1 100000 >&2; false")
    assert len(said) < 16_500
    assert said.count("bytes left out") == 2


def test_endless_output_is_stopped_and_said(session: FakeSession):
    said = failed(session, "yes")
    assert "printed too much" in said
    assert len(said) < 17_000


@pytest.mark.parametrize("status", [status for status in ExecStatus if status is not ExecStatus.EXIT])
def test_every_end_of_a_command_has_words(session: FakeSession, status: ExecStatus):
    class Ends(FakeSession):
        def exec(self, argv, **options):
            return ExecResult(status=status, returncode=None, stdout=Captured(), stderr=Captured(), seconds=2.0)

    assert "Reason: it was" in failed(Ends(session.root, session.git_dir), "x")


def test_the_offered_tools_are_the_known_six_with_clean_schemas():
    specs = [spec(tool) for tool in default_tools(Limits())]
    assert [one.name for one in specs] == ["read_file", "write_file", "search_replace", "grep", "bash", "todo"]
    assert [list(one.parameters["properties"]) for one in specs] == [
        ["path", "offset", "limit"],
        ["path", "content", "overwrite"],
        ["file_path", "content"],
        ["pattern", "path", "max_matches", "use_default_ignore"],
        ["command", "timeout"],
        ["action", "todos"],
    ]
    for one in specs:
        assert one.description
        for entry in one.parameters["properties"].values():
            assert set(entry) <= {"type", "description", "default", "minimum", "minLength", "enum", "items"}
            assert {"type", "description"} <= set(entry)
    assert specs[0].parameters["required"] == ["path"]
    assert specs[0].parameters["properties"]["limit"]["type"] == "integer"


def test_replies_shrink_with_the_window():
    read, _, _, grep_tool, bash_tool, _ = default_tools(Limits(context_tokens=16_384))
    assert read.max_bytes == grep_tool.max_bytes == 16_384
    assert bash_tool.max_bytes == 16_000
