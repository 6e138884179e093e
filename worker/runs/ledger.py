"""What a running trajectory writes: steps, spend, patch, evidence. Every write proves that the lease is still held.

The spend and the run's totals move in one transaction, and a spend row exists once per (run, sample, token, call).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, cast

from sqlalchemy import insert
from sqlalchemy.orm import Session

from agent import outcome, types
from agent.generated import GeneratedIds
from worker.runs import budgets, totals
from worker.runs.accounts import Amount
from worker.runs.states import Lease, write
from worker.store.evidence import Evidence
from worker.store.models import Patch, Run, Spend
from worker.store.steps import Step
from worker.store.text import clean

MICRO = Decimal("0.000001")


def usage(run: Run) -> types.Usage:
    """What a run's calls took together."""
    return types.Usage(
        prompt=run.prompt_tokens,
        cached=run.cached_tokens,
        cache_untold=run.cache_untold_tokens,
        completion=run.completion_tokens,
    )


def usd(value: float) -> Decimal:
    """USD to the ledger's resolution of a millionth."""
    return Decimal(repr(value)).quantize(MICRO)


def usd_at_most(value: float) -> Decimal:
    """The same, rounded up: what is set aside never falls short of what is booked."""
    return Decimal(repr(value)).quantize(MICRO, ROUND_CEILING)


def book(
    session: Session,
    lease: Lease,
    *,
    call: int,
    usage: types.Usage,
    cost: float,
    seconds: float,
    profile: str,
    model: str,
    cost_low: float | None = None,
    sample: int = 0,
) -> None:
    """Book one model call and settle its reservation. LeaseLost, and nothing booked, when the run is in other hands.

    `cost_low`: what it cost at least, where `cost` is an upper bound; `sample`: the try that made it.
    """
    amount, low = usd(cost), usd(cost if cost_low is None else cost_low)
    write(
        session,
        lease,
        calls=Run.calls + 1,
        prompt_tokens=Run.prompt_tokens + usage.prompt,
        cached_tokens=Run.cached_tokens + usage.cached,
        cache_untold_tokens=Run.cache_untold_tokens + usage.cache_untold,
        completion_tokens=Run.completion_tokens + usage.completion,
        usd=Run.usd + amount,
        usd_low=Run.usd_low + low,
    )
    session.execute(
        insert(Spend).values(
            run_id=lease.run_id,
            sample=sample,
            lease_token=lease.token,
            call=call,
            profile=profile,
            model=clean(model),
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached,
            cache_untold_tokens=usage.cache_untold,
            completion_tokens=usage.completion,
            usd=amount,
            usd_low=low,
            seconds=seconds,
            gpu_seconds=usage.gpu_seconds,
        )
    )
    # What is shared with other runs comes last, the busiest at the very end: it is held for the shortest.
    what = {"profile": profile, "model": clean(model)}
    totals.add(session, lease.run_id, usage, **what, amount=amount, low=low, seconds=seconds)
    budgets.settle(session, lease, call, sample=sample, spent=Amount(amount, usage.prompt + usage.completion))


def record_step(session: Session, lease: Lease, step: types.Step, *, model: str = "", sample: int = 0) -> None:
    """`model`: the label of the one that answered."""
    times, kept = step.times, step.generated
    write(session, lease, lease_owner=lease.owner)
    session.execute(
        insert(Step).values(
            run_id=lease.run_id,
            sample=sample,
            lease_token=lease.token,
            index=step.index,
            thought=clean(step.thought),
            note=clean(step.note),
            actions=[
                {
                    "id": clean(action.call.id),
                    "name": clean(action.call.name),
                    "arguments": clean(action.call.arguments),
                    "observation": clean(action.observation),
                    "ok": action.ok,
                    "malformed": action.malformed,
                    "timed_out": action.timed_out,
                    "seconds": action.seconds,
                }
                for action in step.actions
            ],
            tree=step.tree,
            prompt_tokens=step.usage.prompt,
            cached_tokens=step.usage.cached,
            cache_untold_tokens=step.usage.cache_untold,
            completion_tokens=step.usage.completion,
            usd=usd(step.usd),
            model_seconds=step.model_seconds,
            answer=None if step.answer is None else _exactly(step.answer),
            finish_reason=step.finish_reason,
            elapsed=step.elapsed,
            exit_status=step.exit_status,
            exit_reason=clean(step.exit_reason),
            compacted=None if step.compacted is None else clean(step.compacted),
            model=clean(model) or None,
            turn_seconds=times and times.turn,
            queue_seconds=times and times.queued,
            first_token_seconds=times and times.first,
            decode_seconds=times and times.decode,
            gpu_seconds=step.usage.gpu_seconds,
            again_tokens=times and times.again,
            repairs=None if step.repairs is None else list(step.repairs),
            malformed=step.malformed,
            generated=kept and kept.data,
            vocabulary=kept and kept.vocabulary,
        )
    )


def _exactly(answer: types.AssistantMessage) -> bytes:
    """In ASCII: escapes hold what UTF-8 and Postgres' text can't."""
    return json.dumps(answer.model_dump(), ensure_ascii=True).encode("ascii")


def stored_step(row: Step) -> types.Step | None:
    """A step as it happened, to go on from; None for one whose answer was not recorded. Its calls are the answer's own,
    and what the model was shown of them needs no repair: it was cleaned before it was shown."""
    if row.answer is None:
        return None
    answer = types.AssistantMessage.model_validate(json.loads(row.answer))
    return types.Step(
        index=row.index,
        thought=row.thought,
        actions=tuple(
            types.Action(
                call=call,
                observation=done["observation"],
                ok=done["ok"],
                malformed=done.get("malformed", False),  # rows of before say neither
                timed_out=done.get("timed_out", False),
                seconds=done["seconds"],
            )
            for call, done in zip(answer.tool_calls, row.actions, strict=False)
        ),
        usage=types.Usage(
            prompt=row.prompt_tokens,
            cached=row.cached_tokens,
            cache_untold=row.cache_untold_tokens,
            completion=row.completion_tokens,
            gpu_seconds=row.gpu_seconds,
        ),
        usd=float(row.usd),
        model_seconds=row.model_seconds,
        times=_times(row),
        repairs=None if row.repairs is None else tuple(row.repairs),
        tree=row.tree,
        note=row.note,
        answer=answer,
        generated=_generated(row),
        finish_reason=cast("types.FinishReason", row.finish_reason),  # checked by the model
        elapsed=row.elapsed,
        exit_status=row.exit_status,
        exit_reason=row.exit_reason,
        compacted=row.compacted,
    )


def _times(row: Step) -> types.CallTimes | None:
    turn, queued, first, decode = (
        row.turn_seconds,
        row.queue_seconds,
        row.first_token_seconds,
        row.decode_seconds,
    )
    if turn is None or queued is None or first is None or decode is None:
        return None
    return types.CallTimes(turn=turn, queued=queued, first=first, decode=decode, again=row.again_tokens or 0)


def _generated(row: Step) -> GeneratedIds | None:
    if row.generated is None or row.vocabulary is None:
        return None
    return GeneratedIds.stored(row.generated, row.vocabulary)


def record_patch(session: Session, lease: Lease, patch: outcome.Patch, *, sample: int = 0) -> None:
    write(session, lease, lease_owner=lease.owner)
    session.execute(
        insert(Patch).values(
            run_id=lease.run_id,
            sample=sample,
            base_commit=patch.base_commit,
            tree=patch.tree,
            diff=patch.diff.encode("utf-8", "surrogateescape"),
            files=[change.model_dump(mode="json") for change in patch.files],
        )
    )


def record_evidence(session: Session, lease: Lease, evidence: outcome.Evidence, *, sample: int = 0) -> None:
    write(session, lease, lease_owner=lease.owner)
    session.execute(
        insert(Evidence).values(
            run_id=lease.run_id,
            sample=sample,
            lease_token=lease.token,
            stage=evidence.stage,
            tree=evidence.tree,
            command=clean(evidence.command),
            outcome=evidence.outcome,
            returncode=evidence.returncode,
            seconds=evidence.seconds,
            output=clean(evidence.output),
            counts=dict(evidence.counts),
            detail=_clean(evidence.detail.model_dump(mode="json")),
        )
    )


def stored_evidence(row: Evidence) -> outcome.Evidence:
    return outcome.Evidence.model_validate({name: getattr(row, name) for name in outcome.Evidence.model_fields})


def _clean(value: Any) -> Any:
    """JSON as Postgres can hold it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def stored_patch(row: Patch) -> outcome.Patch:
    return outcome.Patch(
        base_commit=row.base_commit,
        tree=row.tree,
        diff=row.diff.decode("utf-8", "surrogateescape"),
        files=tuple(outcome.FileChange.model_validate(change) for change in row.files),
    )
