"""`search_replace` on real files: what it changes, what it leaves alone, and what it says on a miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import ToolFailure
from agent.tools.search_replace import SearchReplace, SearchReplaceParameters
from tests.fakes import FakeSession, workspace

CODE = """def add(a, b):
    if a is None:
        return b
    return a - b


def twice(a):
    return add(a, a)
"""


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return workspace(tmp_path, {"code.py": CODE})


def block(search: str, replace: str) -> str:
    middle = f"{replace}\n" if replace else ""
    return f"<<<<<<< SEARCH\n{search}\n=======\n{middle}>>>>>>> REPLACE"


def edit(session: FakeSession, content: str, path: str = "code.py") -> str:
    return SearchReplace().run(session, SearchReplaceParameters(file_path=path, content=content))


def failure(session: FakeSession, content: str, path: str = "code.py") -> str:
    with pytest.raises(ToolFailure) as caught:
        edit(session, content, path)
    return str(caught.value)


def test_one_block(session: FakeSession):
    assert edit(session, block("    return a - b", "    return a + b")) == (
        "file: /workspace/code.py\nblocks_applied: 1\nlines_changed: 1\nwarnings: none"
    )
    assert session.read("code.py").decode() == CODE.replace("a - b", "a + b")


def test_blocks_apply_in_order_each_to_what_the_last_one_left(session: FakeSession):
    edit(session, block("a - b", "a + b") + "\n\n" + block("a + b", "b + a"))
    assert "return b + a" in session.read("code.py").decode()


def test_one_missing_block_leaves_everything(session: FakeSession):
    said = failure(session, block("a - b", "a + b") + "\n" + block("absent_name_xyz", "x"))
    assert "block 2 of 2" in said
    assert "nothing was written" in said
    assert session.read("code.py").decode() == CODE


@pytest.mark.parametrize(
    "written",
    [
        "```python\n" + block("a - b", "a + b") + "\n```",
        "code.py\n" + block("a - b", "a + b"),
        "<<<<< SEARCH\na - b\n=====\na + b\n>>>>> REPLACE",
        "<<<<<<<<< SEARCH\na - b\n=========\na + b\n>>>>>>>>> REPLACE\n",
        block("a - b", "a + b").replace("\n", "\r\n"),
        "  <<<<<<< SEARCH\na - b\n=======  \na + b\n  >>>>>>> REPLACE",
    ],
)
def test_forms_that_models_write(session: FakeSession, written: str):
    edit(session, written)
    assert "return a + b" in session.read("code.py").decode()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a - b -> a + b", "no SEARCH/REPLACE block"),
        ("<<<<<<< SEARCH\na\n>>>>>>> REPLACE", "no ======= line"),
        ("<<<<<<< SEARCH\na\n=======\nb", "no >>>>>>> REPLACE line"),
        ("<<<<<<< SEARCH\na\n=======\nb\n" + block("a", "b"), "before the next block"),
        (block("", "new"), "empty SEARCH"),
        (block("a - b", "a - b"), "the same"),
        ("x" * 100_001, "larger than"),
    ],
)
def test_forms_that_can_not_be_read(session: FakeSession, written: str, said: str):
    assert said in failure(session, written)


def test_of_several_places_the_first_is_changed_with_a_warning(session: FakeSession):
    session.write("twice.py", b"x = 1\ny = 1\nx = 1\n")
    assert "2 times; only the first" in edit(session, block("x = 1", "x = 2"), "twice.py")
    assert session.read("twice.py") == b"x = 2\ny = 1\nx = 1\n"


def test_whole_lines_go_before_a_place_inside_a_longer_line(session: FakeSession):
    session.write("max.py", b"max = 10\nx = 1\n")
    assert "warnings: none" in edit(session, block("x = 1", "x = 2"), "max.py")
    assert session.read("max.py") == b"max = 10\nx = 2\n"


def test_an_empty_replace_takes_the_lines_away(session: FakeSession):
    edit(session, block("    if a is None:\n        return b", ""))
    assert session.read("code.py").decode().startswith("def add(a, b):\n    return a - b\n")


def test_a_heading_underline_is_not_taken_for_the_divider(session: FakeSession):
    session.write("doc.rst", b"Title\n=======\nold\n")
    edit(session, "<<<<<<< SEARCH\nTitle\n=======\nold\n=======\nTitle\n=======\nnew\n>>>>>>> REPLACE", "doc.rst")
    assert session.read("doc.rst") == b"Title\n=======\nnew\n"


def test_crlf_stays_crlf(session: FakeSession):
    session.write("dos.txt", b"one\r\ntwo\r\nthree\r\n")
    edit(session, block("one\ntwo", "1\n2\n2b"), "dos.txt")
    assert session.read("dos.txt") == b"1\r\n2\r\n2b\r\nthree\r\n"


def test_mixed_line_ends_stay_where_they_are(session: FakeSession):
    session.write("mixed.txt", b"one\r\ntwo\r\nthree\nfour\n")
    edit(session, block("one\ntwo", "1\n2"), "mixed.txt")
    edit(session, block("three\nfour", "3\n4"), "mixed.txt")
    assert session.read("mixed.txt") == b"1\r\n2\r\n3\n4\n"


def test_bytes_that_are_not_utf8_survive(session: FakeSession):
    session.write("latin.txt", b"caf\xe9\nold\n")
    edit(session, block("old", "neu"), "latin.txt")
    assert session.read("latin.txt") == b"caf\xe9\nneu\n"


def test_backslashes_are_taken_as_they_are(session: FakeSession):
    session.write("re.py", b'p = r"\\d+\\n"\n')
    edit(session, block(r'p = r"\d+\n"', r'p = r"\w+\1\g<0>"'), "re.py")
    assert session.read("re.py") == b'p = r"\\w+\\1\\g<0>"\n'


@pytest.mark.parametrize(
    ("search", "differs"),
    [
        ("def add(a, b):\nif a is None:\n    return b", "indentation"),
        ("    if a is None:  \n        return b", "blanks at line ends"),
        ("    if a is None:\n\treturn b", "tabs against spaces|indentation"),
        ("    if a  is None:\n        return b", "blanks inside lines"),
        ("    if A is None:\n        return B", "upper and lower case"),
        ("    if a is None:\n        return c", "1 of 2 lines"),
    ],
)
def test_a_miss_shows_the_nearest_lines_and_what_differs(session: FakeSession, search: str, differs: str):
    said = failure(session, block(search, "x"))
    assert any(f"What differs: {one}" in said for one in differs.split("|")), said
    assert "read_file with offset=" in said
    assert "+++ file" in said


def test_a_miss_by_doubled_backslashes_is_named(session: FakeSession):
    session.write("re.py", b'p = r"\\d+"\n')
    assert "backslashes" in failure(session, block('p = r"\\\\d+"', "x"), "re.py")


def test_an_edit_that_was_made_before_is_named(session: FakeSession):
    edit(session, block("return a - b", "return a + b"))
    assert "already in the file" in failure(session, block("return a - b", "return a + b"))


def test_nothing_alike(session: FakeSession):
    assert "nothing in the file is like it" in failure(session, block("zzz qqq 12345", "x"))


def test_a_miss_in_a_large_file_is_quick(session: FakeSession):
    session.write("large.py", b"".join(b"value_%d = compute(%d)\n" % (i, i) for i in range(50_000)))
    assert "not in the file" in failure(
        session, block("value_77 = compute(78)\nvalue_78 = compute(79)", "x"), "large.py"
    )


def test_files_that_are_not_there_or_not_text(session: FakeSession):
    session.write("blob", b"\0\1")
    assert "does not exist" in failure(session, block("a", "b"), "gone.py")
    assert "binary" in failure(session, block("a", "b"), "blob")
    assert "outside" in failure(session, block("a", "b"), "/etc/hosts")
