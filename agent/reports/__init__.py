"""What a test runner reported, test by test: bytes in, a mapping of stable test id to outcome out. Pure.

A report is written by a process that the code under test shares: it is a claim, not a proof. What its claims are worth
is decided in `agent.evidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from agent.reports import cargo, events, jsons, junit, texts
from agent.reports.cases import MAX_BYTES, Case, Cases, ReportError, Unusable
from agent.reports.plan import MAX_OUTPUT, Format, Plan, command_for, taken_apart

__all__ = [
    "MAX_BYTES",
    "MAX_OUTPUT",
    "Case",
    "Cases",
    "Format",
    "Plan",
    "ReportError",
    "Unusable",
    "command_for",
    "parse",
    "readable",
    "taken_apart",
]

_PARSERS: Mapping[Format, Callable[[bytes, Collection[str]], Cases]] = MappingProxyType(
    {
        Format.JUNIT: junit.parse,
        Format.PYTEST: lambda data, _: texts.pytest(data),
        Format.UNITTEST: lambda data, _: texts.unittest(data),
        Format.CARGO: lambda data, _: cargo.parse(data),
        Format.JEST: lambda data, _: jsons.jest(data),
        Format.GO: lambda data, _: events.parse(data),
    }
)


def parse(form: Format, data: bytes, *, files: Collection[str] = ()) -> Mapping[str, Case]:
    """Each test's outcome by its id, sorted. ReportError, with the reason in words, for a report that can't be
    understood, is not complete, or is larger than MAX_BYTES.

    `files`: the repository's paths; with them pytest's JUnit class names become its node ids.
    """
    if len(data) > MAX_BYTES:
        raise ReportError(f"the report is larger than {MAX_BYTES >> 20} MiB", Unusable.TOO_LARGE)
    if not data.strip():
        raise ReportError("the test command left no report", Unusable.ABSENT)
    return _PARSERS[form](data, files).all()


def readable(form: Format | None, printed: str) -> str:
    """What a command printed, as its runner prints it for people where nobody asks it for a report."""
    return events.printed(printed) if form is Format.GO else printed
