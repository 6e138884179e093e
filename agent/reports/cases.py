"""One test's outcome, and a growing collection of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum

MAX_BYTES = 32 << 20
MAX_CASES = 200_000
_LONGEST_ID = 500
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


class Case(StrEnum):
    """How one test ended. `error`: it, or what it needs, could not be run."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


_WORST = [Case.PASSED, Case.SKIPPED, Case.FAILED, Case.ERROR]


class Unusable(StrEnum):
    """Why there is nothing to be read."""

    ABSENT = "absent"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    INCOMPLETE = "incomplete"


class ReportError(ValueError):
    """A report that can't be used; the message says why, for people."""

    def __init__(self, reason: str, kind: Unusable = Unusable.MALFORMED) -> None:
        super().__init__(reason)
        self.kind = kind


class Cases:
    """Outcomes by id. An id that comes twice has the less favourable outcome: a later line can't better it."""

    def __init__(self) -> None:
        self._found: dict[str, Case] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, test: str, case: Case) -> None:
        test = _stable(test)
        known = self._found.get(test)
        if known is None and len(self._found) >= MAX_CASES:
            raise ReportError(f"the report names more than {MAX_CASES} tests", Unusable.TOO_LARGE)
        self._found[test] = case if known is None else max(known, case, key=_WORST.index)

    def count(self, *cases: Case) -> int:
        return sum(case in cases for case in self._found.values())

    def all(self) -> Mapping[str, Case]:
        return dict(sorted(self._found.items()))


def _stable(test: str) -> str:
    """Fit for a database and a terminal, of bounded length, and without addresses in memory, which change each time."""
    test = _ADDRESS.sub("0x…", test)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in test)
    if len(shown) <= _LONGEST_ID:
        return shown
    return f"{shown[: _LONGEST_ID - 20]}…{hashlib.sha256(test.encode(errors='replace')).hexdigest()[:16]}"
