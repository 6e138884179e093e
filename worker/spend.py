"""What was spent, from the totals: what it cost, and what the same tokens cost at the prices of other models."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from agent.types import Usage
from worker.money import usd
from worker.prices import Entry
from worker.runs import engine_time, totals
from worker.table import aligned

IDLE = "(idle)"
BY = ("day", "repository", "model", "profile", "kind", "label")
RANGE = (
    "A range: for part of these tokens no price of cached input is known. Its low end lets them cost nothing, its high "
    "end the full price; about 97 % of an agent's input is cached, so they are far apart."
)
UNTOLD = (
    "A ?: for part of the input the model's server did not tell what it had cached; a range lets it be all or nothing."
)


@dataclass
class Line:
    """One group. Money is USD, at least and at most."""

    key: tuple[str, ...]
    calls: int = 0
    tokens: dict[int, Usage] = field(default_factory=dict)
    actual: tuple[float, float] = (0.0, 0.0)
    gpu_seconds: float = 0.0
    idle: bool = False  #: engines' time without a call: nobody's, and nothing of it is in the ledger

    @property
    def usage(self) -> Usage:
        return sum(self.tokens.values(), Usage())


def lines(
    session: Session, by: Sequence[str], *, since: dt.date | None = None, until: dt.date | None = None
) -> list[Line]:
    """One line a group, in the order of the groups; of nothing grouped one line, or none."""
    found: dict[tuple[str, ...], Line] = {}
    for row in totals.grouped(session, by, since=since, until=until):
        key = tuple(_word(value) for value in row[: len(by)])
        line = found.setdefault(key, Line(key))
        line.calls += int(row.calls)
        line.tokens[row.context_above] = Usage(
            prompt=int(row.prompt_tokens),
            cached=int(row.cached_tokens),
            cache_untold=int(row.cache_untold_tokens),
            completion=int(row.completion_tokens),
        )
        line.actual = (line.actual[0] + float(row.usd_low), line.actual[1] + float(row.usd))
        line.gpu_seconds += float(row.gpu_seconds)
    return list(found.values())


def idle_lines(
    session: Session,
    by: Sequence[str],
    *,
    gpu_hour: float | None,
    since: dt.date | None = None,
    until: dt.date | None = None,
) -> list[Line]:
    """What engines did not use, by day and profile as far as `by` has them; at `gpu_hour` USD, where that is known."""
    own = [name for name in by if name in {"day", "profile"}]
    found = []
    for row in engine_time.idle(session, own, since=since, until=until):
        seconds = float(row.gpu_seconds)
        cost = seconds * (gpu_hour or 0.0) / 3600
        key = tuple(str(getattr(row, name)) if name in own else IDLE for name in by)
        found.append(Line(key, actual=(cost, cost), gpu_seconds=seconds, idle=True))
    return found


def _word(value: Any) -> str:
    return value.value if isinstance(value, StrEnum) else str(value)


def record(line: Line, by: Sequence[str], models: dict[str, Entry]) -> dict[str, Any]:
    """A line as JSON-ready values; every amount is `[at least, at most]`."""
    usage = line.usage
    return {
        **dict(zip(by, line.key, strict=True)),
        "idle": line.idle,
        "calls": line.calls,
        "prompt_tokens": usage.prompt,
        "cached_tokens": usage.cached,
        "cache_untold_tokens": usage.cache_untold,
        "completion_tokens": usage.completion,
        "gpu_seconds": line.gpu_seconds,
        "actual_usd": [round(amount, 6) for amount in line.actual],
        "equivalent_usd": {
            key: [round(amount, 6) for amount in entry.equivalent(line.tokens)] for key, entry in models.items()
        },
    }


def as_csv(records: Sequence[dict[str, Any]], by: Sequence[str], models: Iterable[str]) -> str:
    """Comma-separated, with a header; a range is two columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    plain = [*by, "idle", "calls", *totals.TOKENS, "gpu_seconds"]
    money = [f"{name}_{end}" for name in ("actual_usd", *models) for end in ("low", "high")]
    writer.writerow([*plain, *money])
    for one in records:
        ranges = [one["actual_usd"], *one["equivalent_usd"].values()]
        writer.writerow([_cell(one[name]) for name in plain] + [amount for both in ranges for amount in both])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A stranger's word never becomes a formula in somebody's spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t"} else value


def as_table(records: Sequence[dict[str, Any]], by: Sequence[str], models: dict[str, Entry]) -> list[str]:
    """For people: columns, then what the figures are."""
    head = [
        *by,
        "calls",
        "in",
        "cached",
        "out",
        "GPU-seconds",
        "actual",
        *(f"at {entry.name}" for entry in models.values()),
    ]
    rows = [
        [
            *(f"{one[name]} {IDLE}" if one["idle"] and one[name] != IDLE else str(one[name]) for name in by),
            f"{one['calls']:,}",
            f"{one['prompt_tokens']:,}",
            _cached(one),
            f"{one['completion_tokens']:,}",
            f"{one['gpu_seconds']:,.0f}",
            usd(*one["actual_usd"]),
            *(usd(*both) for both in one["equivalent_usd"].values()),
        ]
        for one in records
    ]
    table = aligned(head, rows, left=len(by))
    ranges = any(low != high for one in records for low, high in [one["actual_usd"], *one["equivalent_usd"].values()])
    notes = [f"{entry.name}: {entry.source}, {entry.date}." for entry in models.values()]
    untold = any(one["cache_untold_tokens"] for one in records)
    return [*table, *([UNTOLD] if untold else []), *([RANGE] if ranges else []), *notes]


def _cached(one: dict[str, Any]) -> str:
    """Unknown is not zero."""
    if not one["cache_untold_tokens"]:
        return f"{one['cached_tokens']:,}"
    return f"{one['cached_tokens']:,}+?" if one["cached_tokens"] else "?"
