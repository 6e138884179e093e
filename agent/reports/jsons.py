"""jest's report in JSON; vitest writes the same."""

from __future__ import annotations

import json

from agent.reports.cases import Case, Cases, ReportError, Unusable

_WORKSPACE = "/workspace/"
_JEST = {
    "passed": Case.PASSED,
    "failed": Case.FAILED,
    **dict.fromkeys(("pending", "skipped", "todo", "disabled"), Case.SKIPPED),
}


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
