"""What a change adds that reaches into the test runner or its report. A guard against the plain forms only: code that
the tests run in the runner's own process can do anything there, and hide it. Pure."""

from __future__ import annotations

import re

from agent.hygiene import is_test_path, sections_by_path

_REACHES = re.compile(
    r"""
      \bTEST_REPORT\b | \bjunit_?xml\b | \bPYTEST_(ADDOPTS|PLUGINS|CURRENT_TEST)\b
    | \b_pytest\b | \bpytest_plugins\b | \bdef\s+pytest_\w+ | \bload_tests\b
    | \bunittest\.(case|loader|main|result|runner|suite|Test(Case|Result)|TextTest(Runner|Result))(\.\w+)*\s*=[^=]
    | \bsetattr\(\s*(unittest|pytest|TestCase)\b
    | \bsys\.modules\[\s*['"](_?pytest|unittest)
    | \bfunc\s+TestMain\b | ---\ (PASS|SKIP):\ | \btest\ result:\ ok | \btest\ \S+\ \.\.\.\ ok\b
    """,
    re.VERBOSE,
)
# In a test alone: programs do end themselves.
_ENDS = re.compile(
    r"\bos\._exit\b|\bprocess(\.|::)(exit|reallyExit|abort)\s*\(|\bos\.(kill|abort)\b|\b(os|syscall)\.Exit\s*\("
)
_CODE = re.compile(r"\.(py|pyi|[cm]?[jt]sx?|sh|bash|go|rs)$")


def reaching(diff: str) -> tuple[str, ...]:
    """`path: what it adds` for each such word, sorted and without doubles."""
    found = set()
    for path, section in sections_by_path(diff).items():
        if not _CODE.search(path):
            continue
        for line in section.split("\n"):
            if not line.startswith("+") or line.startswith("+++ "):
                continue
            match = _REACHES.search(line) or (_ENDS.search(line) if is_test_path(path) else None)
            if match is not None:
                found.add(f"{path}: {match.group().strip()}")
    return tuple(sorted(found))
