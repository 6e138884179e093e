"""Events of `go test -json`, and what people would have read in their place."""

from __future__ import annotations

import json
import re
from typing import Any

from agent.reports.cases import Case, Cases, ReportError

_ENDED = {"pass": Case.PASSED, "fail": Case.FAILED, "skip": Case.SKIPPED}
_PRINTED = {"PASS": Case.PASSED, "FAIL": Case.FAILED, "SKIP": Case.SKIPPED}
_END = re.compile(r"--- (PASS|FAIL|SKIP): (\S+) \([0-9.]+s\)\n$")
_UNBUILT = re.compile(r"^FAIL\t(\S+) \[(?:build|setup) failed\]")

_Key = tuple[str, str]  # package and test; no test: the package itself


class _Told:
    def __init__(self) -> None:
        self.begun: dict[_Key, None] = {}
        self.ended: dict[_Key, Case] = {}
        self._printed: dict[_Key, Case] = {}

    def line(self, line: str) -> None:
        event = _event(line)
        if event is not None:
            self._event(event)
        elif match := _UNBUILT.match(line):  # go 1.19 tells it in words alone
            self.begun[match.group(1), ""] = None
            self.ended[match.group(1), ""] = Case.FAILED

    def _event(self, event: dict[str, Any]) -> None:
        key = (str(event["Package"]), str(event.get("Test", "")))
        self.begun[key] = None
        if (case := _ENDED.get(str(event["Action"]))) is not None:
            self.ended[key] = case if self.ended.get(key) is not Case.FAILED else Case.FAILED
        elif key[1] and (match := _END.search(str(event.get("Output", "")))) and match.group(2) == key[1]:
            self._printed[key] = _PRINTED[match.group(1)]

    def case(self, key: _Key) -> Case:
        """Of what begun and never ended: the process died. But go 1.19 misses the end of a test that printed
        half a line before it."""
        if key not in self.ended and key in self._printed and (key[0], "") in self.ended:
            return self._printed[key]
        return self.ended.get(key, Case.ERROR)


def parse(data: bytes) -> Cases:
    """Ids are `package::Test/sub`; a package that failed without a failing test, or can't be built, is an error of its
    own name."""
    told = _Told()
    for line in data.decode("utf-8", "replace").split("\n"):
        told.line(line)
    if not told.begun:
        raise ReportError("the output holds no event of go test -json")
    cases = Cases()
    failing = {key[0] for key in told.begun if key[1] and told.case(key) is Case.FAILED}
    for package, test in told.begun:
        case = told.case((package, test))
        if test:
            cases.add(f"{package}::{test}", case)
        elif case in {Case.ERROR, Case.FAILED} and package not in failing:
            cases.add(package, Case.ERROR)
    return cases


def printed(text: str) -> str:
    """What people would have seen of `go test -v`: the events' output, and the lines that are none."""
    lines = []
    for line in text.splitlines(keepends=True):
        event = _event(line)
        lines.append(line if event is None else str(event.get("Output", "")))
    return "".join(lines)


def _event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "Action" in event and "Package" in event else None
