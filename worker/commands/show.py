"""`devstral-fix runs show`: one run with its history."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from worker import money, terminal
from worker.commands.base import AS_JSON, NotDone, in_transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from worker.store.models import Run


@click.command("show", epilog="Example: devstral-fix runs show 01990000-0000-7000-8000-000000000000 --json | jq .")
@click.argument("run_id", type=click.UUID)
@AS_JSON
def show_run(run_id: UUID, *, as_json: bool) -> None:
    """One run: who worked on it, how each attempt ended, what it did, what it cost, what was proven."""
    data = in_transaction(lambda session: described(session, run_id))
    if data is None:
        raise NotDone(f"there is no run {run_id}")
    if as_json:
        terminal.data(data)
        return
    for line in lines(data):
        terminal.line(line)


def described(session: Session, run_id: UUID) -> dict[str, Any] | None:
    """JSON-ready values; None when there is no such run. Costs are USD, moments ISO 8601."""
    from worker.runs import budget_words, queue_position
    from worker.store import queries, trajectories

    run = queries.run(session, run_id)
    if run is None:
        return None
    place = queue_position.place(session, run_id)
    pull_request = queries.pull_request(session, run.repository, run.branch)
    spend = trajectories.spend_by_attempt(session, run_id)
    attempts: dict[int, dict[str, Any]] = {
        attempt.lease_token: {
            "token": attempt.lease_token,
            "stage": attempt.stage.value,
            "owner": attempt.owner,
            "started_at": _moment(attempt.started_at),
            "ended_at": _moment(attempt.ended_at),
            "ending": attempt.ending.value if attempt.ending else None,
            "reason": attempt.reason,
            "counted": attempt.counted,
            "note": attempt.note,
            "first_step": attempt.first_step,
            "spend": None,
        }
        for attempt in trajectories.attempts(session, run_id)
    }
    for token, sums in spend.items():
        # A lease of before there was a history has spent, too.
        attempts.setdefault(token, {"token": token, "stage": "pursue"})["spend"] = {
            **sums._asdict(),
            "usd": float(sums.usd),
            "usd_low": float(sums.usd_low),
        }
    return {
        "run_id": str(run.id),
        "repository": run.repository,
        "issue_number": run.issue_number,
        "state": run.state.value,
        "outcome": run.outcome.value if run.outcome else None,
        "exit_status": run.exit_status.value if run.exit_status else None,
        "reason": run.reason,
        "held_reason": run.held_reason,
        "held": budget_words.held(session, run),
        "queue": None if place is None else {**place.as_json(), "told": queue_position.told(session, run)},
        "profile": run.profile,
        "model": run.model,
        "attempt": run.attempt,
        "max_attempts": run.max_attempts,
        "queued_at": _moment(run.queued_at),
        "finished_at": _moment(run.finished_at),
        "calls": run.calls,
        "cost_usd": float(run.usd),
        "cost_usd_low": float(run.usd_low),
        "usage": {
            "prompt": run.prompt_tokens,
            "cached": run.cached_tokens,
            "cache_untold": run.cache_untold_tokens,
            "completion": run.completion_tokens,
        },
        "branch": run.branch,
        "pull_request_url": pull_request.url if pull_request and pull_request.run_id == run.id else None,
        "attempts": [attempts[token] for token in sorted(attempts)],
        "steps": [
            {
                "index": step.index,
                "token": step.lease_token,
                "tools": [action["name"] for action in step.actions],
                "failed": sum(not action["ok"] for action in step.actions),
                "changed": step.tree is not None,
                "model_seconds": step.model_seconds,
                **_call(step),
            }
            for step in trajectories.steps(session, run_id, sample=run.chosen)
        ],
        "tries": _tries(session, run),
        "evidence": [
            {
                "stage": e.stage,
                "tree": e.tree,
                "command": e.command,
                "outcome": e.outcome.value,
                "returncode": e.returncode,
                "seconds": e.seconds,
                "counts": e.counts,
                "detail": e.detail,
            }
            for e in queries.evidence(session, run_id)
        ],
    }


def lines(data: dict[str, Any]) -> list[str]:
    """The same for people."""
    state = " ".join(filter(None, (data["state"], data["outcome"])))
    usage = data["usage"]
    tokens = f"{usage['prompt']} tokens in ({_cached(usage)}), {usage['completion']} out"
    shown = [
        f"{data['run_id']}  {data['repository']}#{data['issue_number']}  {state}",
        *([f"reason    {data['reason']}"] if data["reason"] else []),
        *([f"waits for {data['held_reason']}"] if data["held_reason"] else []),
        *([data["held"]] if data["held"] else []),
        *([f"queue     {data['queue']['told']}"] if data["queue"] and data["queue"]["told"] else []),
        f"model     {data['model'] or 'none yet'} ({data['profile']})",
        f"spent     {data['calls']} calls, {tokens}, {money.usd(data['cost_usd_low'], data['cost_usd'])}",
        *([f"pull request {data['pull_request_url']}"] if data["pull_request_url"] else []),
    ]
    numbers = {attempt["token"]: number for number, attempt in enumerate(data["attempts"], 1)}
    for attempt in data["attempts"]:
        ending = attempt.get("ending") or "at work"
        counted = " (counted)" if attempt.get("counted") else ""
        words = "; ".join(filter(None, (attempt.get("note"), attempt.get("reason"))))
        spend = attempt.get("spend")
        cost = f"  {spend['calls']} calls, {money.usd(spend['usd_low'], spend['usd'])}" if spend else ""
        span = f"{attempt.get('started_at') or '?'} .. {attempt.get('ended_at') or ''}"
        shown.append(
            f"attempt   {numbers[attempt['token']]} {attempt['stage']} by {attempt.get('owner') or '?'}  {span}  "
            f"{ending}{counted}{cost}{f'  {words}' if words else ''}"
        )
    shown += [f"try       {words}" for words in map(_try_words, data["tries"])]
    for step in data["steps"]:
        tools = ", ".join(step["tools"]) or "no tool call"
        failed = f", {step['failed']} failed" if step["failed"] else ""
        changed = ", changed files" if step["changed"] else ""
        shown.append(
            f"step      {step['index'] + 1} (attempt {numbers.get(step['token'], '?')}): {tools}{failed}{changed}"
        )
        shown.append(f"          {_call_words(step)}")
    for e in data["evidence"]:
        tests = ", ".join(f"{count} {case}" for case, count in e["counts"].items()) or "outcome per test unknown"
        kept = ", kept from an earlier run" if e["detail"].get("kept") else ""
        shown.append(f"evidence  {e['stage']}: {e['outcome']}, {tests} ({e['command']}; exit {e['returncode']}{kept})")
        shown += [f"          {words}" for words in _found(e["detail"])]
    if data["outcome"] and not data["evidence"]:
        shown.append("evidence  not verified: nothing was executed")
    return shown


def _tries(session: Session, run: Run) -> list[dict[str, Any]]:
    """Nothing of a run that had one. Steps and evidence are those of the chosen one."""
    from worker.store import tries

    rows, costs = tries.of_run(session, run.id), tries.costs(session, run.id)
    if len(rows) < 2:
        return []
    return [
        {
            "number": one.sample + 1,
            "profile": one.profile,
            "temperature": one.temperature,
            "exit_status": one.exit_status.value if one.exit_status else None,
            "outcome": one.outcome.value if one.outcome else None,
            "reason": one.verdict or one.reason,
            "named": one.named,
            "chosen": one.sample == run.chosen and run.outcome is not None,
            "calls": costs[one.sample].calls if one.sample in costs else 0,
            "cost_usd": float(costs[one.sample].usd) if one.sample in costs else 0.0,
        }
        for one in rows
    ]


def _try_words(one: dict[str, Any]) -> str:
    at = "" if one["temperature"] is None else f", temperature {one['temperature']:g}"
    end = one["outcome"] or one["exit_status"] or "at work"
    marks = ["the best one"] * one["chosen"] + ["named by the comparison"] * (one["named"] is not None)
    cost = f"{one['calls']} calls, {money.usd(one['cost_usd'], one['cost_usd'])}"
    return f"{one['number']} ({one['profile']}{at})  {'; '.join([end, *marks, cost, *filter(None, [one['reason']])])}"


def _cached(usage: dict[str, Any]) -> str:
    untold = f", of {usage['cache_untold']} it was not told" if usage["cache_untold"] else ""
    return f"{usage['cached']} cached{untold}"


def _found(detail: dict[str, Any]) -> list[str]:
    """What one execution showed, test by test; why it did not."""
    tests = [
        f"{name.replace('_', ' ')}: {', '.join(found['some'])}{', …' if found['total'] > len(found['some']) else ''}"
        for name, found in detail.get("tests", {}).items()
    ]
    held = [f"as on the base: {', '.join(detail['held_back'])}"] if detail.get("held_back") else []
    return [*tests, *detail.get("noticed", []), *held, *([detail["note"]] if detail.get("note") else [])]


def _call(step: Any) -> dict[str, Any]:
    """Its model call. Seconds; null where the server does not tell, or the step is from before it was kept."""
    return {
        "model": step.model,
        "usage": {
            "prompt": step.prompt_tokens,
            "cached": step.cached_tokens,
            "cache_untold": step.cache_untold_tokens,
            "completion": step.completion_tokens,
        },
        "reprefilled_tokens": step.again_tokens,
        "turn_seconds": step.turn_seconds,
        "queue_seconds": step.queue_seconds,
        "first_token_seconds": step.first_token_seconds,
        "decode_seconds": step.decode_seconds,
        "gpu_seconds": step.gpu_seconds,
        "repairs": step.repairs,
        "malformed": step.malformed,
    }


def _call_words(step: dict[str, Any]) -> str:
    usage = step["usage"]
    words = [f"{usage['prompt']} in ({_cached(usage)}), {usage['completion']} out, {step['model_seconds']:.1f} s"]
    if step["first_token_seconds"] is not None:
        words.append(
            f"turn {step['turn_seconds']:.2f} s, queue {step['queue_seconds']:.2f} s,"
            f" first token {step['first_token_seconds']:.2f} s, decode {step['decode_seconds']:.2f} s"
        )
    if step["gpu_seconds"] is not None:
        words.append(f"{step['gpu_seconds']:.2f} GPU-seconds")
    if step["reprefilled_tokens"]:
        words.append(f"{step['reprefilled_tokens']} computed again")
    if step["repairs"]:
        words.append(f"mended: {', '.join(step['repairs'])}")
    if step["malformed"]:
        words.append(f"{step['malformed']} malformed")
    return "; ".join(words)


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
