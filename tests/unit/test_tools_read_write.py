"""`read_file` and `write_file` on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import ToolFailure
from agent.tools.read_file import ReadFile, ReadFileParameters
from agent.tools.text import clean, elide, inside
from agent.tools.write_file import WriteFile, WriteFileParameters
from tests.fakes import FakeSession, workspace


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(
        tmp_path,
        {
            "a.txt": "one\ntwo\nthree\n",
            "empty": "",
            "crlf.txt": "one\r\ntwo\r\n",
            "latin.txt": "caf\xe9\n".encode("latin-1"),
            "blob": b"\x7fELF\0\0",
            "no_newline": "last",
            "long.txt": "x" * 50 + "\n" + "y" * 500 + "\nz\n",
        },
    )


def read(session: FakeSession, path: str, *, max_bytes: int = 64_000, **params: object) -> str:
    return ReadFile(max_bytes).run(session, ReadFileParameters.model_validate({"path": path} | params))


def write(session: FakeSession, path: str, content: str, **params: object) -> str:
    values = {"path": path, "content": content} | params
    return WriteFile().run(session, WriteFileParameters.model_validate(values))


def test_a_whole_file_without_line_numbers(session: FakeSession):
    assert read(session, "a.txt") == (
        "path: /workspace/a.txt\ncontent: one\ntwo\nthree\nlines_read: 3\nwas_truncated: False"
    )


@pytest.mark.parametrize("path", ["/workspace/a.txt", "./a.txt", "sub/../a.txt", "/workspace//a.txt"])
def test_one_file_by_its_names(session: FakeSession, path: str):
    assert "path: /workspace/a.txt\n" in read(session, path)


def test_offset_and_limit_count_lines_from_zero(session: FakeSession):
    text = read(session, "a.txt", offset=1, limit=1)
    assert "content: two\nlines_read: 1\nwas_truncated: True" in text
    assert "go on with offset=2" in text


def test_null_means_the_default(session: FakeSession):
    assert "lines_read: 3" in read(session, "a.txt", offset=None, limit=None)


def test_an_offset_past_the_end_names_the_length(session: FakeSession):
    with pytest.raises(ToolFailure, match="has 3 lines"):
        read(session, "a.txt", offset=3)


def test_too_many_bytes_stop_at_a_line(session: FakeSession):
    text = read(session, "long.txt", max_bytes=100)
    assert "lines_read: 1\nwas_truncated: True" in text
    assert "yyy" not in text


def test_one_line_that_is_too_long_is_cut_and_said_so(session: FakeSession):
    text = read(session, "long.txt", max_bytes=100, offset=1)
    assert "y" * 100 + "\n" in text
    assert "y" * 101 not in text
    assert "line 1 is longer than 100 bytes and was cut" in text
    assert "go on with offset=2" in text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("empty", "the file is empty"),
        ("crlf.txt", "content: one\ntwo\nlines_read: 2\nwas_truncated: False\nnote: lines end in CRLF"),
        ("latin.txt", "not UTF-8"),
        ("no_newline", "content: last\nlines_read: 1"),
    ],
)
def test_odd_files(session: FakeSession, path: str, said: str):
    assert said in read(session, path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("blob", "binary"),
        (".", "directory"),
        ("gone.txt", "does not exist"),
        ("a.txt/b", "can't be read"),
        ("/etc/passwd", "outside the workspace"),
        ("../x", "outside the workspace"),
        ("/workspace-other/x", "outside the workspace"),
        ("", "empty"),
        ("a\0b", "NUL"),
    ],
)
def test_what_can_not_be_read_is_said(session: FakeSession, path: str, said: str):
    with pytest.raises(ToolFailure, match=said):
        read(session, path)


def test_a_link_out_of_the_workspace_is_refused_by_the_session(session: FakeSession):
    (session.root / "link").symlink_to("/etc/passwd")
    with pytest.raises(ToolFailure, match="can't be read"):
        read(session, "link")


def test_a_new_file_in_a_new_directory(session: FakeSession):
    assert write(session, "new/deep.py", "x\n") == (
        "path: /workspace/new/deep.py\nbytes_written: 2\nfile_existed: False"
    )
    assert session.read("new/deep.py") == b"x\n"


def test_an_existing_file_needs_overwrite(session: FakeSession):
    with pytest.raises(ToolFailure, match="overwrite=true"):
        write(session, "a.txt", "new")
    assert session.read("a.txt") == b"one\ntwo\nthree\n"
    assert "file_existed: True" in write(session, "a.txt", "new", overwrite=True)
    assert session.read("a.txt") == b"new"


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        (".git/hooks/post-checkout", "x", "git itself"),
        ("../x", "x", "outside"),
        ("big", "x" * 64_001, "at most 64000"),
    ],
)
def test_what_can_not_be_written_is_said(session: FakeSession, path: str, content: str, said: str):
    with pytest.raises(ToolFailure, match=said):
        write(session, path, content)


def test_a_directory_can_not_be_overwritten(session: FakeSession):
    write(session, "d/x", "x")
    with pytest.raises(ToolFailure, match="directory"):
        write(session, "d", "x", overwrite=True)


def test_inside_keeps_names_that_only_look_odd():
    assert inside("..a/b") == "..a/b"
    assert inside("/workspace") == "."


def test_elide_keeps_both_ends_and_counts_bytes():
    text = "".join(f"line {i}\n" for i in range(1000))
    short = elide(text, 200, already=5)
    head, _, rest = short.partition("\n[... ")
    number, _, tail = rest.partition(" bytes left out ...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert int(number) - 5 + len(head) + 1 + len(tail) == len(text)
    assert elide("short", 200) == "short"


def test_elide_does_not_break_characters():
    assert "\ufffd" not in elide("ä" * 1000, 101)


def test_clean_keeps_layout():
    assert clean("a\tb\r\nc\x00\ud800\x1b") == "a\tb\nc\ufffd\ufffd\ufffd"
