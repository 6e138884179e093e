"""A looked-through backlog for people and programs. Every text in it is a stranger's or a model's."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent.triage.forecast import Forecast, Range, total
from agent.triage.ranking import Ranked
from worker import money
from worker.table import aligned

if TYPE_CHECKING:  # what looks through a backlog takes seconds to import
    from worker.triage.looking import Looked

TITLE, REASON = 60, 90  # characters in the table
_COLUMNS = (
    *("rank", "number", "title", "kind", "solvable", "difficulty", "risk", "reason", "why_not", "same_as", "also"),
    *("files", "missing", "labels"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row(one: Ranked) -> dict[str, Any]:
    """JSON-ready; what was not answered is None."""
    found = one.asked.assessment if one.asked else None
    return {
        "rank": one.rank,
        "number": one.issue.number,
        "title": one.issue.title,
        "kind": found and found.kind.value,
        "solvable": found and found.solvable,
        "difficulty": found and found.difficulty.value,
        "risk": found and found.risk.value,
        "reason": found and found.reason,
        "why_not": one.why_not,
        "same_as": one.same_as,
        "also": list(one.also),
        "files": list(found.files) if found else [],
        "missing": list(found.missing) if found else [],
        "dropped": list(found.dropped) if found else [],
        "labels": list(one.issue.labels),
    }


def data(looked: Looked, each: Forecast, *, repository: str, model: str) -> dict[str, Any]:
    advised = sum(one.rank is not None for one in looked.issues)
    return {
        "repository": repository,
        "model": model,
        "issues": [row(one) for one in looked.issues],
        "advised": advised,
        "asked": looked.fresh,
        "kept": looked.kept,
        "stopped": looked.stopped,
        "usd": round(looked.usd, 6),
        "usd_before": round(looked.usd_before, 6),
        "tokens": looked.usage.prompt + looked.usage.completion,
        "seconds": round(looked.seconds, 3),
        "forecast": each.model_dump(),
        "forecast_usd_of_all": total(each.usd, advised).model_dump(),
    }


def summary(looked: Looked, each: Forecast) -> list[str]:
    """Lines for people."""
    advised = sum(one.rank is not None for one in looked.issues)
    cost = f"{_usd(each.usd)}; all {advised}: {_usd(total(each.usd, advised))} ({each.based_on})"
    asked = f"{looked.fresh} asked now, {looked.kept} answered before"
    lines = [
        f"{len(looked.issues)} issues: {advised} worth an attempt, {len(looked.issues) - advised} not",
        f"{asked}; {money.usd(looked.usd)}, {looked.seconds:.1f} s",
        f"an attempt: {_range(each.steps)} steps, {cost}",
    ]
    if looked.stopped is not None:
        lines.append(f"not all were asked: {looked.stopped}")
    return lines


def table(issues: Sequence[Ranked]) -> list[str]:
    rows = []
    for one in issues:
        found = one.asked.assessment if one.asked else None
        rows.append(
            [
                str(one.rank or "-"),
                f"#{one.issue.number}",
                found.kind.value if found else "-",
                found.difficulty.value if found else "-",
                found.risk.value if found else "-",
                _cut(one.issue.title, TITLE),
                _cut(one.why_not or (found.reason if found else ""), REASON),
            ]
        )
    return aligned(("rank", "issue", "kind", "difficulty", "risk", "title", "why"), rows)


def as_csv(issues: Sequence[Ranked]) -> str:
    """A cell that a spreadsheet would compute begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in issues:
        values = row(one)
        writer.writerow([_cell(values[name]) for name in _COLUMNS])
    return out.getvalue()


def as_markdown(looked: Looked, each: Forecast, *, repository: str, model: str) -> str:
    lines = [f"# Backlog of {inert(repository)}", "", *(f"- {line}" for line in summary(looked, each))]
    lines += [f"- asked: {inert(model)}", ""]
    advised = [one for one in looked.issues if one.rank is not None]
    others = [one for one in looked.issues if one.rank is None]
    if advised:
        lines += ["## Worth an attempt", "", "| | issue | kind | difficulty | risk | why | files |", "|-|-|-|-|-|-|-|"]
        for one in advised:
            assert one.asked is not None
            found = one.asked.assessment
            assert found is not None
            title = inert(_cut(one.issue.title, TITLE))
            also = "".join(f", also {_number(number)}" for number in one.also)
            cells = (
                *(str(one.rank), f"{_number(one.issue.number)} {title}{also}", found.kind, found.difficulty),
                *(found.risk, inert(found.reason), ", ".join(map(inert, found.files))),
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if others:
        lines += ["## Not now", "", "| issue | why |", "|-|-|"]
        for one in others:
            title = inert(_cut(one.issue.title, TITLE))
            lines.append(f"| {_number(one.issue.number)} {title} | {inert(one.why_not or '')} |")
        lines.append("")
    return "\n".join(lines)


def inert(text: str) -> str:
    """As code, in one line: nothing in it is markup, a mention, a link or the end of a table's cell."""
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return "`" + flat.replace("`", "'").replace("|", "\\|") + "`" if flat else "(nothing)"


def _number(number: int) -> str:
    """Without the mark that makes GitHub link back from the issue."""
    return f"no. {number}"


def _cell(value: Any) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def _range(of: Range) -> str:
    return f"{of.low:.0f} to {of.high:.0f}"


def _usd(of: Range) -> str:
    return f"{money.usd(of.low)} to {money.usd(of.high)}"
