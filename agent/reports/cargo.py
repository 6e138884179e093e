"""What `cargo test` prints, one block for each program that it runs.

A block says at its head how many tests it has, then names each, and at its end counts them by outcome. What tests print
past the capture stands in the middle of its lines, so a test may have its name without an outcome beside it: the end
of its block then tells. A block that doesn't add up is not used, one without an end is a program that died.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from agent.reports.cases import Case, Cases, ReportError, Unusable

_SUITE = re.compile(r"^\s*(?:Running (?:(unittests) )?(\S+) \((?:.*/)?([\w-]+?)(?:-[0-9a-f]{16})?\)|Doc-tests (\S+))")
_COUNT = re.compile(r"^running (\d+) tests?$")
_TEST = re.compile(
    r"test (\S+(?: - [^()]*\(line \d+\))?)(?: - should panic| - compile fail| - compile)? \.\.\. ?"
    r"(ok\b|FAILED\b|ignored\b|bench:)?"
)
_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored; (\d+) measured")
_LINE = re.compile(r" ?\(line (\d+)\)$")
_OLD = "unittests"  # a cargo that does not name the file
_CRATES = ("src/lib.rs", "src/main.rs")
_ENDS = {"ok": Case.PASSED, "bench:": Case.PASSED, "FAILED": Case.FAILED, "ignored": Case.SKIPPED}


@dataclass
class _Block:
    suite: str
    tests: int
    named: list[tuple[str, Case | None]] = field(default_factory=list)
    failures: set[str] = field(default_factory=set)
    part: str = ""  # once all tests are named: what they printed, and which of them failed

    def line(self, line: str) -> None:
        if line in {"failures:", "successes:"}:
            self.part = line
        elif self.part == "failures:" and line.startswith("    "):
            self.failures.add(line.strip())
        elif not self.part and (match := _TEST.search(line)):
            self.named.append((match.group(1), _ENDS.get(match.group(2))))

    def ended(self, counts: tuple[int, ...], cases: Cases) -> None:
        found = [(name, case or (Case.FAILED if name in self.failures else Case.PASSED)) for name, case in self.named]
        seen = [sum(case is wanted for _, case in found) for wanted in (Case.PASSED, Case.FAILED, Case.SKIPPED)]
        passed, failed, ignored, measured = counts
        if len(found) != self.tests:
            raise _incomplete(self.suite, self.tests, len(found))
        if seen != [passed + measured, failed, ignored]:
            raise ReportError(f"cargo's counts of {self.suite} are not those of its lines", Unusable.INCOMPLETE)
        self._add(found, cases)

    def died(self, cases: Cases) -> None:
        self._add([(name, case or Case.ERROR) for name, case in self.named], cases)
        cases.add(self.suite, Case.ERROR)

    def _add(self, found: list[tuple[str, Case]], cases: Cases) -> None:
        """A documentation test's line number changes with every edit: its place among those of the same item stays."""
        places: dict[str, list[int]] = {}
        for name, _ in found:
            if match := _LINE.search(name):
                places.setdefault(name[: match.start()], []).append(int(match.group(1)))
        for name, case in found:
            shown = name
            if match := _LINE.search(name):
                item = name[: match.start()]
                place = sorted(places[item]).index(int(match.group(1))) + 1
                shown = f"{item} #{place}" if place > 1 else item
            cases.add(f"{self.suite}::{shown}", case)


class _Reader:
    """`suite` is the program whose tests come next, `crate` the one that its package is called by."""

    def __init__(self) -> None:
        self.cases = Cases()
        self.blocks = 0
        self._suite = "tests"
        self._crate = ""
        self._block: _Block | None = None

    def line(self, line: str) -> None:
        if match := _SUITE.match(line):
            self._program(*match.groups())
        elif match := _COUNT.match(line):
            self.end()
            self._block = _Block(self._suite, int(match.group(1)))
            self.blocks += 1
        elif self._block is None:
            if _TEST.match(line):
                raise _incomplete("nothing", 0, 1)
        elif match := _RESULT.match(line):
            self._block.ended(tuple(map(int, match.groups())), self.cases)
            self._block = None
        else:
            self._block.line(line)

    def end(self) -> None:
        """A block that is open now is of a program that died."""
        if self._block is not None:
            self._block.died(self.cases)
        self._block = None

    def _program(self, unit: str | None, file: str | None, program: str | None, documented: str | None) -> None:
        if documented:
            self._suite = f"doc {documented}"
            return
        if file in _CRATES:
            self._crate = program or ""
        self._suite = f"{file}::{program if unit or file == _OLD else self._crate}".rstrip(":")


def parse(data: bytes) -> Cases:
    """Ids are `file::crate::module::test`: members of a workspace have files of the same name."""
    reader = _Reader()
    for line in data.decode("utf-8", "replace").split("\n"):
        reader.line(line)
    reader.end()
    if not reader.blocks:
        raise ReportError("the output names no test (cargo test)", Unusable.INCOMPLETE)
    return reader.cases


def _incomplete(suite: str, counted: int, named: int) -> ReportError:
    return ReportError(f"cargo counts {counted} tests of {suite}, its lines name {named}", Unusable.INCOMPLETE)
