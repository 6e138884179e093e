"""What the recorded runs tell of the harness, by model, profile and prompt."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Date, Float, Integer, Select, cast, func, select, true
from sqlalchemy.orm import Session

from agent.telemetry import missed
from agent.types import ExitStatus
from worker.store.models import Run
from worker.store.steps import Step

_GROUP = ("model", "profile", "prompt_hash")


def by_configuration(session: Session, *, since: dt.date | None, until: dt.date | None) -> Sequence[dict[str, Any]]:
    """A row for each (model, profile, prompt hash) whose runs concluded on those days (UTC; `until` is the first one
    left out): `runs`, `stuck`, `steps`, `repaired`, `compactions`, `first_edit` (mean over the runs that edited, from
    1), `missed_edits`, and `calls`, `failed`, `malformed`, `timed_out` by tool. Of pruned steps nothing is known."""
    runs = _runs(since, until)
    of_run = (
        select(
            runs.c.id,
            func.count(Step.id).label("steps"),
            func.count().filter(func.cardinality(Step.repairs) > 0).label("repaired"),
            func.count(Step.compacted).label("compactions"),
            func.min(Step.index).filter(Step.tree.is_not(None)).label("first_edit"),
        )
        .outerjoin(Step, Step.run_id == runs.c.id)
        .group_by(runs.c.id)
        .subquery()
    )
    group = [runs.c[name] for name in _GROUP]
    sums = session.execute(
        select(
            *group,
            func.count().label("runs"),
            func.count().filter(runs.c.exit_status == ExitStatus.STUCK).label("stuck"),
            *(func.sum(of_run.c[name]).cast(Integer).label(name) for name in ("steps", "repaired", "compactions")),
            cast(func.avg(of_run.c.first_edit) + 1, Float).label("first_edit"),
        )
        .join(of_run, of_run.c.id == runs.c.id)
        .group_by(*group)
        .order_by(*group)
    )
    found = {tuple(row[:3]): {**row._asdict(), **_calls()} for row in sums}
    for row in session.execute(_by_tool(runs)):
        one = found[tuple(row[:3])]
        for name in _calls():
            if count := getattr(row, name):
                one[name][row.tool] = count
    for one in found.values():
        one["missed_edits"] = missed(one["failed"], one["malformed"])
    return list(found.values())


def _runs(since: dt.date | None, until: dt.date | None) -> Any:
    day = cast(func.timezone("UTC", Run.concluded_at), Date)
    days = [*([day >= since] if since else []), *([day < until] if until else [])]
    return (
        select(
            Run.id,
            Run.exit_status,
            func.coalesce(Run.model, "").label("model"),
            Run.profile,
            func.coalesce(Run.prompt_hash, "").label("prompt_hash"),
        )
        .where(Run.concluded_at.is_not(None), *days)
        .subquery()
    )


def _by_tool(runs: Any) -> Select[Any]:
    action = func.jsonb_array_elements(Step.actions).table_valued("value").lateral()
    value = action.c.value.op("->>")
    group = [*(runs.c[name] for name in _GROUP), value("name").label("tool")]
    return (
        select(
            *group,
            func.count().label("calls"),
            func.count().filter(value("ok") == "false").label("failed"),
            func.count().filter(value("malformed") == "true").label("malformed"),
            func.count().filter(value("timed_out") == "true").label("timed_out"),
        )
        .select_from(runs)
        .join(Step, Step.run_id == runs.c.id)
        .join(action, true())
        .group_by(*group)
        .order_by(*group)
    )


def _calls() -> dict[str, dict[str, int]]:
    return {"calls": {}, "failed": {}, "malformed": {}, "timed_out": {}}
