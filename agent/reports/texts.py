"""What runners print for people, read test by test: `pytest -rA` and `unittest -v`. Each counts its tests at the end,
and a text whose lines don't agree with that count is not used."""

from __future__ import annotations

import re

from agent.reports.cases import Case, Cases, ReportError, Unusable

_SUMMARY = re.compile(r"^=+ short test summary info =+$")
_PYTEST = {
    **dict.fromkeys(("PASSED", "XPASS"), Case.PASSED),
    "FAILED": Case.FAILED,
    "ERROR": Case.ERROR,
    "XFAIL": Case.SKIPPED,
}
_PYTEST_LINE = re.compile(r"(PASSED|FAILED|ERROR|XFAIL|XPASS) (.+)")
_PYTEST_COUNT = re.compile(r"(\d+) (passed|failed|errors?|xfailed|xpassed)\b")
_PYTEST_END = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in [0-9.]+s\b.*$")

_UNITTEST_NAME = r"\S+ \([\w.<>]+\)"
_UNITTEST_LINE = re.compile(rf"^\s*({_UNITTEST_NAME})(?P<sub> [\[(].*[\])])? \.\.\. (.*)$")
_UNITTEST_TITLE = re.compile(rf"^({_UNITTEST_NAME})$")
_UNITTEST_DOC = re.compile(r"^.* \.\.\. (.*)$")
_UNITTEST_HEADING = re.compile(rf"^(ERROR|FAIL): ({_UNITTEST_NAME})")
_UNITTEST_ENDS = {
    "ok": Case.PASSED,
    "FAIL": Case.FAILED,
    "ERROR": Case.ERROR,
    "expected failure": Case.SKIPPED,
    "unexpected success": Case.FAILED,
}
_NOT_LOADED = "unittest.loader._FailedTest"
_FIXTURES = ("setUpClass", "tearDownClass", "setUpModule", "tearDownModule")
_RAN = re.compile(r"^Ran (\d+) tests? in ")


def pytest(data: bytes) -> Cases:
    """Skipped tests have no id in this text and are left out."""
    lines = data.decode("utf-8", "replace").split("\n")
    starts = [number for number, line in enumerate(lines) if _SUMMARY.match(line)]
    if not starts:
        raise ReportError("the output has no short test summary (pytest -rA)", Unusable.INCOMPLETE)
    cases, named, counted = Cases(), 0, None
    for line in lines[starts[-1] + 1 :]:
        if end := _PYTEST_END.match(line):
            counted = sum(int(number) for number, _ in _PYTEST_COUNT.findall(end.group(1)))
        elif match := _PYTEST_LINE.match(line):
            named += 1
            cases.add(_node_id(match.group(2)), _PYTEST[match.group(1)])
    if counted != named:
        raise ReportError(f"the summary counts {counted} tests and names {named}", Unusable.INCOMPLETE)
    return cases


def _node_id(text: str) -> str:
    """Up to the dash before the reason; one inside the brackets of a parameter is the parameter's."""
    end = text.find(" - ")
    while end != -1 and text.count("[", 0, end) > text.count("]", 0, end):
        end = text.find(" - ", end + 1)
    return text if end == -1 else text[:end]


def unittest(data: bytes) -> Cases:
    cases, named, counted = Cases(), 0, None
    open_test: str | None = None
    undecided: list[str] = []
    for line in data.decode("utf-8", "replace").split("\n"):
        heading = _UNITTEST_HEADING.match(line)
        if heading:  # also what has no line of its own: a class's set-up
            cases.add(_dotted(heading.group(2)), Case.ERROR if heading.group(1) == "ERROR" else Case.FAILED)
        elif ran := _RAN.match(line):
            counted = (counted or 0) + int(ran.group(1))
        elif match := _UNITTEST_LINE.match(line):
            test, case = _dotted(match.group(1)), _unittest_end(match.group(3))
            # A subtest's line comes besides its test's, which then ends with nothing; fixtures are not counted.
            named += not match.group("sub") and not match.group(1).startswith(_FIXTURES)
            if match.group(3).strip() or match.group("sub"):
                cases.add(test, case or Case.ERROR)
            else:
                undecided.append(test)
            open_test = None
        elif title := _UNITTEST_TITLE.match(line):
            open_test = title.group(1)
        elif open_test and (doc := _UNITTEST_DOC.match(line)):
            named += 1
            cases.add(_dotted(open_test), _unittest_end(doc.group(1)) or Case.ERROR)
            open_test = None
    if counted is None or counted != named:
        raise ReportError(f"unittest counts {counted or 'no'} tests, its lines name {named}", Unusable.INCOMPLETE)
    for test in set(undecided) - cases.all().keys():
        cases.add(test, Case.ERROR)
    return cases


def _dotted(test: str) -> str:
    """`module.Class.test`, from either form that Python's versions print."""
    name, where = test.removesuffix(")").split(" (", 1)
    if name in _FIXTURES:
        return where
    if where.startswith(_NOT_LOADED):  # a module that can't be imported: the beginning of its tests' ids
        return name
    return where if where.endswith(f".{name}") else f"{where}.{name}"


def _unittest_end(text: str) -> Case | None:
    return Case.SKIPPED if text.startswith("skipped") else _UNITTEST_ENDS.get(text.strip())
