"""What of a model's answer about an issue is believed."""

from __future__ import annotations

import json

import pytest

from agent.triage.assessment import ASSESS, MOST_FILES, BadAnswer, Kind, read

GOOD = {"kind": "bug", "solvable": True, "reason": "It says where.", "difficulty": "easy", "risk": "low"}


def believed(others=(), files=(), **changes):
    return read(json.dumps(GOOD | changes), number=7, others=others, files=files)


def test_an_answer_in_the_form():
    found = believed(files={"src/a.py"}, missing=["  the  version "])
    assert (found.kind, found.solvable, found.missing, found.dropped) == (Kind.BUG, True, ("the version",), ())


def test_only_files_that_exist_are_kept_and_once():
    named = ["src/a.py", "./src/a.py", "`src/a.py`", "/workspace/src/b.py", "src/none.py", "/etc/passwd"]
    found = read(GOOD | {"files": named}, number=7, others=(), files={"src/a.py", "src/b.py"})
    assert found.files == ("src/a.py", "src/b.py")
    assert found.dropped == ("2 paths that the repository does not have",)


def test_without_a_list_of_files_none_is_believed():
    assert read(GOOD | {"files": ["src/a.py"]}, number=7, others=(), files=None).files == ()


def test_a_flood_of_files_is_cut():
    known = {f"f{i}" for i in range(1000)}
    assert len(read(GOOD | {"files": sorted(known)}, number=7, others=(), files=known).files) == MOST_FILES


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "duplicate", "duplicate_of": 7}, "this issue itself"),
        ({"kind": "bug", "duplicate_of": 7}, "this issue itself"),
        ({"kind": "duplicate", "duplicate_of": 99}, "none of the issues listed"),
        ({"kind": "duplicate"}, "names no issue"),
        ({"kind": "wonderful"}, "kind: "),
        ({"solvable": "perhaps"}, "solvable: "),
        ({"difficulty": None}, "difficulty: "),
        ({"missing": "the version"}, "missing: "),
        ({"reason": 5}, "reason: "),
    ],
)
def test_what_breaks_the_form_is_named(changes, why):
    with pytest.raises(BadAnswer, match=why):
        believed(others=(3,), **changes)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"bug"', "[" * 100_000, "{}"])
def test_what_is_no_form_at_all(text):
    with pytest.raises(BadAnswer):
        read(text, number=7, others=(), files=())


def test_a_duplicate_of_a_candidate_is_not_solved_by_itself():
    found = believed(others=(3,), kind="duplicate", duplicate_of=3)
    assert (found.duplicate_of, found.solvable) == (3, False)


def test_a_bug_that_names_a_stranger_as_its_double_stays_a_bug():
    found = believed(others=(3,), duplicate_of=99)
    assert (found.kind, found.duplicate_of, found.solvable) == (Kind.BUG, None, True)
    assert "#99" in found.dropped[0]


@pytest.mark.parametrize("kind", ["question", "stale", "already_fixed"])
def test_what_needs_no_change_is_not_solvable(kind):
    assert not believed(kind=kind).solvable


def test_unknown_fields_change_nothing():
    assert believed(budget_usd=10_000, priority="highest") == believed()


def test_long_reasons_are_cut():
    assert len(believed(reason="x" * 10_000).reason) == 600


def test_the_form_names_all_fields_and_needs_no_references():
    schema = ASSESS.parameters
    assert set(schema["required"]) == {"kind", "solvable", "reason", "difficulty", "risk"}
    assert schema["properties"]["kind"]["enum"] == [kind.value for kind in Kind]
    assert schema["properties"]["files"] == {
        "type": "array",
        "items": {"type": "string"},
        "description": schema["properties"]["files"]["description"],
    }
    assert "$ref" not in json.dumps(schema)
