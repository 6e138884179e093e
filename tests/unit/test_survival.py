"""How much of a change was merged."""

from __future__ import annotations

import pytest

from agent.outcome import Patch
from agent.survival import survived


def patch(*lines: str, path: str = "a.py") -> Patch:
    text = "".join(f"{line}\n" for line in lines)
    diff = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1,9 +1,9 @@\n{text}" if lines else ""
    return Patch(base_commit="1" * 40, tree="2" * 40, diff=diff, files=())


OURS = patch("+x = 1", "+y = 2", "+z = 3", "+}", "+", "+z = 3", "-old")


@pytest.mark.parametrize(
    ("merged", "share"),
    [
        (OURS, 1.0),
        (patch("+  z = 3", "+x = 1", "+z = 3", "+y = 2", "+more"), 1.0),
        (patch("+x = 1", "+z = 3"), 0.5),
        (patch("+x = 1", "+x = 1"), 0.25),
        (patch("-x = 1", " y = 2"), 0.0),
        (patch("+x = 1", "+y = 2", "+z = 3", "+z = 3", path="b.py"), 0.0),
        (patch(), 0.0),
    ],
)
def test_the_share_of_added_lines(merged, share):
    assert survived(OURS, merged) == share


def test_a_change_that_adds_nothing_has_none():
    assert survived(patch("-old", "+}", "+"), OURS) is None
    assert survived(patch(), OURS) is None


def test_a_line_that_looks_like_a_header():
    assert survived(patch("+++ b/x", "+a"), patch("+++ b/x")) == 0.5
