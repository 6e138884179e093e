"""What a reviewer should be told of a change: tests that it weakens, and lines that it only reformats. Pure.

Read from the diff alone, by the habits of the common languages: a hint for people, and no proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.hygiene import is_test_path, printable, sections_by_path
from agent.outcome import Patch

_TEST = re.compile(
    r"""
      ^\s*(async\s+)?def\s+(?P<py>test\w*)\s*\(
    | ^\s*(it|test)(\.\w+)*\(\s*(?P<q>['"`])(?P<js>.+?)(?P=q)
    | ^\s*func\s+(?P<go>Test\w*)\s*\(
    """,
    re.VERBOSE,
)
_SKIP = re.compile(
    r"""
      @(pytest\.mark\.|mark\.)?(skip|skipif|xfail)\b | @(unittest\.)?(skip|skipIf|skipUnless|expectedFailure)\b
    | \bpytest\.(skip|xfail|importorskip)\( | \.skipTest\( | \braise\s+(unittest\.)?SkipTest\b
    | \b(it|test|describe)\.(skip|todo|failing)\b | ^\s*(xit|xtest|xdescribe)\(
    | \#\[ignore | \bt\.Skip(f|Now)?\( | @(Disabled|Ignore)\b
    """,
    re.VERBOSE,
)
_ASSERT = re.compile(
    r"^\s*(assert\b|self\.assert\w+\(|expect\(|assert\w*!?\(|assert\.\w+\(|t\.(Error|Fatal)f?\(|with\s+pytest\.raises)"
)
# Where what stands at the beginning of a line means something.
_INDENTED = re.compile(r"(\.(pyi?|ya?ml|coffee|sass|haml|pug|nim|hs|fs|md|rst)|(^|/)(gnu)?makefile)$", re.IGNORECASE)


def weakened(patch: Patch) -> tuple[str, ...]:
    """Tests that are deleted, skipped or that check less, by file."""
    sections = sections_by_path(patch.diff)
    tests = {change.path: change for change in patch.files if is_test_path(change.path)}
    anywhere = {name for section in sections.values() for name in _names(lines_of(section, "+"))}
    found = []
    for path, change in tests.items():
        plus, minus = (lines_of(sections.get(path, ""), sign) for sign in "+-")
        gone = sorted({name for name in _names(minus) if name not in anywhere})
        if gone:
            what = "1 test" if len(gone) == 1 else f"{len(gone)} tests"
            named = ", ".join([*map(printable, gone[:5]), *(["…"] if len(gone) > 5 else [])])
            found.append(f"{printable(path)}: {what} removed ({named})")
        elif change.status == "D":
            found.append(f"{printable(path)}: a file of the tests is deleted")
        skips = _count(_SKIP, plus) - _count(_SKIP, minus)
        if skips > 0:
            found.append(f"{printable(path)}: {skips} more to be skipped, or expected to fail")
        less, more_of_them = _count(_ASSERT, minus), _count(_ASSERT, plus)
        if change.status == "M" and not any(_names(minus)) and less > more_of_them:
            found.append(f"{printable(path)}: {less} checks removed, {more_of_them} added")
    return tuple(found)


def reformatted(patch: Patch) -> tuple[str, ...]:
    """Files with hunks that change nothing but white space."""
    found = []
    for path, section in sections_by_path(patch.diff).items():
        keep = _INDENTED.search(path) is not None
        blank = sum(_text(hunk, "-", keep) == _text(hunk, "+", keep) for hunk in _hunks(section))
        if blank:
            found.append(f"{printable(path)}: {blank} hunk{'s' if blank > 1 else ''} of white space alone")
    return tuple(found)


def _hunks(section: str) -> Iterator[list[str]]:
    hunk: list[str] | None = None
    for line in section.split("\n"):
        if line.startswith(("@@ ", "diff --git ")):
            if hunk:
                yield hunk
            hunk = [] if line.startswith("@@ ") else None
        elif hunk is not None:
            hunk.append(line)
    if hunk:
        yield hunk


def lines_of(section: str, sign: str) -> list[str]:
    """What a file's section of a diff adds (`+`) or removes (`-`)."""
    return [line[1:] for hunk in _hunks(section) for line in hunk if line.startswith(sign)]


def _text(hunk: list[str], sign: str, keep: bool) -> str:
    lines = [line[1:] for line in hunk if line.startswith(sign)]
    begins = [line[: len(line) - len(line.lstrip())].expandtabs() if keep and line.strip() else "" for line in lines]
    return "".join(
        f"\n{begin}" * keep + "".join(line.split()) for begin, line in zip(begins, lines, strict=True) if line.strip()
    )


def _names(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if match := _TEST.search(line):
            yield match["py"] or match["js"] or match["go"]


def _count(pattern: re.Pattern[str], lines: list[str]) -> int:
    return sum(pattern.search(line) is not None for line in lines)
