"""A pull request as its reviewer reads it: what is known, what is the model's word, what is for people."""

from __future__ import annotations

from uuid import UUID

import pytest

from agent.evidence import Verdict
from agent.outcome import FileChange, Outcome, Patch
from agent.summary import summary
from tests.unit.test_texts import piece
from worker.stages.pull_request_text import body, title

SAID = """Fixed.

WRONG: `wrap` forgot the space,
so lines came out too wide.
**CHANGED:**
- `src/wrap.py`: counts the space
- tests/test_wrap.py: a test for it @team
RAN: pytest -q: 9 passed
UNCERTAIN: tabs were not tried
"""


def file(path: str) -> FileChange:
    values = {"status": "M", "old_mode": "100644", "new_mode": "100644", "added": 2, "removed": 1}
    return FileChange.model_validate({"path": path, **values})


def patch(*paths: str, diff: str = "") -> Patch:
    return Patch(base_commit="b", tree="t", diff=diff, files=tuple(map(file, paths)))


def written(said: str = SAID, **changes: object) -> str:
    values = {
        "run_id": UUID(int=1),
        "issue_number": 7,
        "requested_by": "ann",
        "said": said,
        "verdict": Verdict(outcome=Outcome.FIXED, reason="it is shown"),
        "evidence": [piece("before"), piece("after")],
        "verified_on": "Everything here is of main.",
        "patch": patch("src/wrap.py", "tests/test_wrap.py", "docs/x.md"),
        "footer": "<sub>Model: m.</sub>",
    }
    return body(**{**values, **changes})


def test_the_parts_of_what_the_agent_says():
    found = summary(SAID)
    assert (found.rest, found.in_parts) == ("Fixed.", True)
    assert found.wrong == "`wrap` forgot the space,\nso lines came out too wide."
    assert found.ran == "pytest -q: 9 passed"
    assert found.files == {"src/wrap.py": "counts the space", "tests/test_wrap.py": "a test for it @team"}
    for nothing in ("nothing", "Nothing.", "none", "", "- n/a"):
        assert summary(f"WRONG: x\nUNCERTAIN: {nothing}").uncertain == ""
    plain = summary("I fixed it.\nAnd WRONG: no")
    assert (plain.rest, plain.in_parts) == ("I fixed it.\nAnd WRONG: no", False)


def test_the_order_is_the_reviewers():
    text = written()
    order = [
        "<!-- devstral-fix:run ",
        "An AI agent wrote this change for Fixes #7, asked for by @ann. Nobody has reviewed it yet",
        "**What was wrong**",
        "**What it ran**",
        "### Evidence: fixed",
        "`it is shown`",
        "Everything here is of main.",
        "| tree | tests |",
        "### Files",
        "**Source**\n- `src/wrap.py` (+2 -1): `counts the space`\n- `docs/x.md` (+2 -1)",
        "**Tests**\n- `tests/test_wrap.py` (+2 -1): `a test for it @team`",
        "### Not verified, by the model's own words\n\n```text\ntabs were not tried",
        "<sub>Model: m.</sub>",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_what_is_not_shown_to_be_fixed_closes_nothing():
    text = written(verdict=Verdict(outcome=Outcome.PARTIAL, reason="nothing shows it"))
    assert "Refs #7" in text
    assert "Fixes #7" not in text


def test_a_summary_without_parts_is_shown_whole():
    assert "```text\nI fixed `it`.\n```" in written("I fixed `it`.")
    assert "(it left no summary)" in written("")


def test_a_plan_without_drafts():
    assert "**This is a draft**" in written(no_drafts=True)
    assert "**This is a draft**" not in written()


def test_what_is_worth_a_look_is_named():
    diff = (
        "diff --git a/tests/test_a.py b/tests/test_a.py\n--- a/tests/test_a.py\n+++ b/tests/test_a.py\n"
        "@@ -1,2 +1 @@\n-def test_one():\n-    assert 1\n+x = 1\n"
        "diff --git a/b.js b/b.js\n--- a/b.js\n+++ b/b.js\n@@ -1 +1 @@\n-f( 1)\n+f(1)\n"
    )
    text = written(patch=patch("tests/test_a.py", "b.js", diff=diff))
    assert "### Worth a look" in text
    assert "- `tests/test_a.py: 1 test removed (test_one)`" in text
    assert "- `b.js: 1 hunk of white space alone`" in text


TEMPLATE = """<!-- Thanks
for this! -->
## What does this change?

## Related issue

## How was it tested?

- [ ] I ran the tests
- [ ] I signed the CLA

## Screenshots
"""


def test_a_template_is_filled_where_we_know_and_left_to_people_elsewhere():
    text = written(template=TEMPLATE)
    assert "Thanks" not in text
    what, issue, tested, rest = (text.index(f"## {h}") for h in ("What does", "Related", "How was", "Screenshots"))
    assert what < text.index("**What was wrong**") < issue < text.index("Fixes #7", issue) < tested
    assert tested < text.index("| tree | tests |") < rest
    assert "- [ ] I ran the tests\n- [ ] I signed the CLA" in text, "nothing is ticked for people"
    assert text.index("### Files") > rest, "what has no place there comes after it"
    assert "### Evidence" not in text


@pytest.mark.parametrize("template", ["", "Please describe your change.\n\n- [ ] done", "<!-- ## What -->"])
def test_a_template_without_headings_is_left_out(template):
    assert written(template=template) == written()


def test_a_hostile_template_can_t_hide_what_follows():
    text = written(template="## What\n<!-- never closed")
    assert "### Files" in text
    assert "<!-- never" not in text


def test_its_length_is_bounded():
    many = patch(*(f"src/{n}.py" for n in range(5_000)))
    assert len(written("x" * 500_000, patch=many, template="## A\n" * 3_000)) <= 60_000


USUAL = ["fix(core): a", "feat: b", "chore!: c", "docs: d", "Merge branch x"]


@pytest.mark.parametrize(
    ("issue", "subjects", "shown"),
    [
        ("Wrong sum", [], "Wrong sum (#7)"),
        (" Wrong\n sum ", USUAL, "fix: wrong sum (#7)"),
        ("fix: wrong sum", USUAL, "fix: wrong sum (#7)"),
        ("Wrong sum", USUAL[:4], "Wrong sum (#7)"),
        ("Wrong sum", [*USUAL, "Add x", "Add y", "Add z"], "Wrong sum (#7)"),
        ("", USUAL, "fix: fix (#7)"),
        ("x" * 300, [], "x" * 180 + " (#7)"),
    ],
)
def test_titles_are_as_the_repository_has_them(issue, subjects, shown):
    assert title(issue, 7, subjects) == shown
