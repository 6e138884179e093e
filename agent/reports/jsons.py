"""Reports in JSON: jest's (vitest writes the same) and `go test -json`."""

from __future__ import annotations

import json
from typing import Any

from agent.reports.cases import Case, Cases, ReportError, Unusable

_WORKSPACE = "/workspace/"
_JEST = {
    "passed": Case.PASSED,
    "failed": Case.FAILED,
    **dict.fromkeys(("pending", "skipped", "todo", "disabled"), Case.SKIPPED),
}
_GO = {"pass": Case.PASSED, "fail": Case.FAILED, "skip": Case.SKIPPED}


def jest(data: bytes) -> Cases:
    try:
        report = json.loads(data)
        suites, total = report["testResults"], report.get("numTotalTests")
        cases, found = Cases(), 0
        for suite in suites:
            file = str(suite["name"]).removeprefix(_WORKSPACE)
            tests = suite.get("assertionResults") or []
            for test in tests:
                found += 1
                case = _JEST.get(test["status"], Case.ERROR)
                cases.add(f"{file} > {test.get('fullName') or test['title']}", case)
            if suite.get("status") == "failed" and not any(test["status"] == "failed" for test in tests):
                cases.add(file, Case.ERROR)  # the file itself can't be run
    except (ValueError, RecursionError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"the report is not valid JSON ({str(error)[:200]})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError("the report is JSON, but not jest's: it has no testResults of that shape") from error
    if isinstance(total, int) and total != found:
        raise ReportError(f"the report counts {total} tests and names {found}", Unusable.INCOMPLETE)
    return cases


def go(data: bytes) -> Cases:
    """Ids are `package::Test/sub`; a package that failed without a failing test is an error of its own name."""
    ended: dict[tuple[str, str], Case] = {}
    begun: dict[tuple[str, str], None] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        event = _event(line)
        if event is None:
            continue
        key = (str(event.get("Package", "")), str(event.get("Test", "")))
        begun[key] = None
        if (case := _GO.get(str(event.get("Action")))) is not None:
            ended[key] = case if ended.get(key) is not Case.FAILED else Case.FAILED
    if not begun:
        raise ReportError("the output holds no event of go test -json")
    cases = Cases()
    failing = {package for (package, test), case in ended.items() if test and case is Case.FAILED}
    for package, test in begun:
        case = ended.get((package, test), Case.ERROR)  # begun and never ended: the process died
        if test:
            cases.add(f"{package}::{test}", case)
        elif case in {Case.ERROR, Case.FAILED} and package not in failing:
            cases.add(package, Case.ERROR)
    return cases


def _event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "Action" in event and "Package" in event else None
