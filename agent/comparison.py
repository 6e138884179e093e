"""What tests say with a change against what they said without it, test by test. Pure.

A test's id is its runner's. A container that could not be run at all (a module, a package, a file) is an error under
its own name, which is the beginning of its tests' ids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from agent.outcome import Execution, Named, TestOutcome
from agent.reports import Case
from agent.types import Frozen

_FAILING = frozenset({Case.FAILED, Case.ERROR})
_SEPARATORS = ("::", " > ", ".")
MOST_NAMED = 20


class Comparison(Frozen):
    """Each a sorted tuple of test ids."""

    reproduced: tuple[str, ...] = ()  #: failed without the change, with the same tests, and passes with it
    broken: tuple[str, ...] = ()  #: passed before and fails now, or what it is in can't be run; also when run again
    missing: tuple[str, ...] = ()  #: there before, and no longer collected
    skipped: tuple[str, ...] = ()  #: passed before and is skipped now
    new_failing: tuple[str, ...] = ()  #: not there before, and fails now
    still_failing: tuple[str, ...] = ()  #: failed before and fails now
    flaky: tuple[str, ...] = ()  #: ended differently on the same tree

    def named(self) -> dict[str, Named]:
        """What there is of each, bounded."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: Named(total=len(ids), some=ids[:MOST_NAMED]) for name, ids in found.items() if ids}


def counts(cases: Mapping[str, Case] | None) -> dict[Case, int]:
    """Tests by outcome; empty where nothing is known, or there are none."""
    found = list((cases or {}).values())
    return {case: found.count(case) for case in Case if case in found}


def contradiction(execution: Execution) -> str:
    """How an execution's exit status and its report disagree, in words; empty where they agree. A report is written by
    the process that the tests run in, so it counts only together with the exit status."""
    if execution.cases is None or execution.outcome is TestOutcome.ERROR:
        return ""
    failing = sum(case in _FAILING for case in execution.cases.values())
    if failing and execution.outcome is TestOutcome.PASSED:
        return f"the report names {failing} failing tests, and the exit status is 0"
    if not failing and execution.outcome is TestOutcome.FAILED:
        return f"the report names no failing test, and the exit status is {execution.returncode}"
    return ""


def compare(
    before: Mapping[str, Case],
    after: Mapping[str, Case],
    *,
    without: Mapping[str, Case] | None,
    again: Mapping[str, Case] | None = None,
    changed: Collection[str] = (),
    files: Collection[str] = (),
) -> Comparison:
    """`before`: on the base. `without`: on the base with the change's tests, or on the base once more where it brings
    none; None where that was not executed, so that nothing is reproduced. `after`, `again`: twice with the change.

    `changed` are the paths of the tests that the change brings, `files` all paths of the patched tree: a test whose
    file is not changed can't have become a reproduction.
    """
    runs = [after] if again is None else [after, again]
    ids = set().union(*runs)
    ends = {test: {run[test] for run in runs if test in run} for test in ids}
    flaky = {test for test, seen in ends.items() if Case.PASSED in seen and seen & _FAILING}
    failing = {test for test, seen in ends.items() if seen & _FAILING and Case.PASSED not in seen}
    passing = {test for test, seen in ends.items() if seen == {Case.PASSED}}
    failed_before = {test for test, case in before.items() if case in _FAILING}
    reproduced: set[str] = set()
    if without is not None:
        for test in passing:
            if not _failed(test, without):
                continue
            file = test.split("::", 1)[0].split(" > ", 1)[0]
            if before.get(test) is Case.PASSED and file in files and file not in changed:
                flaky.add(test)
            else:
                reproduced.add(test)
        if not changed:  # the base was executed twice
            twice = {test for test in before.keys() & without.keys() if {before[test], without[test]} & _FAILING}
            flaky |= {test for test in twice if Case.PASSED in {before[test], without[test]}}
            reproduced &= failed_before
    gone = [test for test in before if test not in ids]
    errors = {test for test in failing if all(run.get(test) is Case.ERROR for run in runs)}
    unloaded = {t for t in gone if before[t] is Case.PASSED and not errors.isdisjoint(_containers(t))}
    broken_containers = {test for test in gone if before[test] is Case.ERROR}
    if broken_containers:  # no tests, but what could not be run before and can now
        broken_containers &= {container for test in ids for container in _containers(test)}
    return Comparison(
        reproduced=_sorted(reproduced),
        broken=_sorted({test for test in failing if before.get(test) is Case.PASSED} | unloaded),
        missing=_sorted(test for test in gone if test not in broken_containers | unloaded),
        skipped=_sorted(
            test for test, seen in ends.items() if seen == {Case.SKIPPED} and before.get(test) is Case.PASSED
        ),
        new_failing=_sorted(test for test in failing if test not in before and not _failed(test, before)),
        still_failing=_sorted(
            test for test in failing if _failed(test, before) and before.get(test) is not Case.PASSED
        ),
        flaky=_sorted(flaky),
    )


def _sorted(tests: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(tests))


def _failed(test: str, cases: Mapping[str, Case]) -> bool:
    """Itself, or what it is in could not be run."""
    if test in cases:
        return cases[test] in _FAILING
    return any(cases.get(container) is Case.ERROR for container in _containers(test))


def _containers(test: str) -> list[str]:
    found = []
    for separator in _SEPARATORS:
        at = test.find(separator)
        while at > 0:
            found.append(test[:at])
            at = test.find(separator, at + 1)
    return found
