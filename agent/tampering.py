"""What a change adds that reaches into the test runner or its report. A guard against the plain forms only: code that
the tests run in the runner's own process can do anything there, and hide it. Pure."""

from __future__ import annotations

import re

from agent.hygiene import sections_by_path

_REACHES = re.compile(
    r"""
      \bTEST_REPORT\b | \bjunit_?xml\b | \bPYTEST_(ADDOPTS|PLUGINS|CURRENT_TEST)\b
    | \b_pytest\b | \bpytest_plugins\b | \bdef\s+pytest_\w+ | \bload_tests\b
    | \bos\._exit\b | \bprocess\.exit\s*\( | \bprocess\.reallyExit\b
    | \bunittest\.(case|loader|main|result|runner|suite|Test(Case|Result)|TextTest(Runner|Result))(\.\w+)*\s*=[^=]
    | \bsetattr\(\s*(unittest|pytest|TestCase)\b
    | \bsys\.modules\[\s*['"](_?pytest|unittest)
    """,
    re.VERBOSE,
)
_CODE = re.compile(r"\.(py|pyi|[cm]?[jt]sx?|sh|bash)$")


def reaching(diff: str) -> tuple[str, ...]:
    """`path: what it adds` for each such word, sorted and without doubles."""
    found = set()
    for path, section in sections_by_path(diff).items():
        if not _CODE.search(path):
            continue
        for line in section.split("\n"):
            if line.startswith("+") and not line.startswith("+++ ") and (match := _REACHES.search(line)):
                found.add(f"{path}: {match.group().strip()}")
    return tuple(sorted(found))
