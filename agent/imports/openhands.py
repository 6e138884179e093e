"""OpenHands: the resolver's output (one run a line, a flat history) and lists of events (joined by `cause`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agent.imports.shape import arguments, patch, plain
from agent.recording import Act, Call, Harness, Moment, Observed, Recording, Tokens, total

_ROOT = "/workspace"
# What the terminal and the notebook say besides a result.
_AROUND = re.compile(
    r"(?:\s*^(?:root@\w+:\S* [#$]|\[Jupyter (?:current working directory|Python interpreter): .*\])[ ]*$)+\s*\Z",
    re.MULTILINE,
)
_REFUSED = re.compile(r"\[(?:Your proposed edit has introduced new syntax error|No exact match found in)|ERROR:")
_TOOLS = {"run": ("bash", "command"), "run_ipython": ("ipython", "code"), "read": ("read", "path")}


def fits_output(value: Any) -> bool:
    return "git_patch" in value and isinstance(value.get("history"), list)


def read_output(value: Any) -> Sequence[Recording]:
    """Actions and results alternate without ids. Costs are a list, in the order of the calls: they are given to the
    steps only where there are as many."""
    steps: list[Moment] = []
    for event in value["history"]:
        if "action" in event:
            if event["action"] != "message" or event.get("source") == "agent":
                steps.append(_moment(len(steps), event, event))
        elif "observation" in event and steps and steps[-1].observed is None:
            exit_code = event.get("exit_code")
            text = _AROUND.sub("", plain(event.get("content")))
            seen = Observed(text=text, exit_code=exit_code, refused=bool(_REFUSED.match(text)))
            steps[-1] = steps[-1].model_copy(update={"observed": seen})
    metrics = value.get("metrics") or {}
    costs = metrics.get("costs") or []
    paired = len(costs) == len(steps)
    calls = tuple(Call(usd=cost) for cost in costs)
    if paired:
        steps = [step.model_copy(update={"call": step.index}) for step in steps]
    issue = value.get("issue") or {}
    named = issue.get("owner") and issue.get("repo")
    return [
        Recording(
            harness=Harness.OPENHANDS,
            version="resolver output",
            task=plain(value.get("instruction")),
            instance_id=f"{issue['owner']}__{issue['repo']}-{issue.get('number')}" if named else None,
            repository=f"{issue['owner']}/{issue['repo']}" if named else None,
            base_commit=value.get("base_commit") or None,
            root=_ROOT,
            steps=tuple(steps),
            calls=calls,
            totals=total(calls, usd=metrics.get("accumulated_cost")),
            exit_status="error" if value.get("error") else _finished(steps),
            reason=value.get("error") or value.get("result_explanation"),
            patch=patch(value.get("git_patch")),
            notes=() if paired or not costs else (f"{len(costs)} costs for {len(steps)} actions: given to no step",),
        )
    ]


def fits_events(value: Any) -> bool:
    events = [entry for entry in value if isinstance(entry, dict)]
    return len(events) == len(value) > 0 and all("id" in e and ("action" in e or "observation" in e) for e in events)


def read_events(value: Any) -> Sequence[Recording]:
    """A result names its action (`cause`); events of one model response share one call."""
    results = {event["cause"]: event for event in value if "observation" in event and "cause" in event}
    steps: list[Moment] = []
    calls: list[Call] = []
    known: dict[str, int] = {}
    model = None
    for event in value:
        if "action" not in event or event.get("source") != "agent":
            continue
        response = (event.get("tool_call_metadata") or {}).get("model_response") or {}
        model = model or response.get("model")
        call = None
        if response.get("id"):
            call = known.setdefault(response["id"], len(calls))
            if call == len(calls):
                calls.append(_call(response))
        moment = _moment(len(steps), event, event.get("args") or {})
        steps.append(moment.model_copy(update={"call": call, "observed": _observed(results.get(event["id"]))}))
    task: dict[str, Any] = next((e for e in value if e.get("action") == "message" and e.get("source") == "user"), {})
    return [
        Recording(
            harness=Harness.OPENHANDS,
            version="events",
            purpose="sample" if not any("patch" in e for e in value) else "fix",
            task=plain((task.get("args") or {}).get("content")),
            root=_ROOT,
            model=model,
            steps=tuple(steps),
            calls=tuple(calls),
            totals=total(calls),
            exit_status=_finished(steps),
        )
    ]


def _moment(index: int, event: dict[str, Any], args: dict[str, Any]) -> Moment:
    kind = event["action"]
    problem = None
    if kind in ("edit", "write"):
        tool, (given, problem) = "str_replace_editor", _edit(event, args)
    elif kind in _TOOLS:
        tool, key = _TOOLS[kind]
        given = {key: args.get(key)}
    else:
        tool, given = kind, {}
    return Moment(
        index=index,
        thought=plain(args.get("thought")),
        act=Act(tool=tool, arguments=given, problem=problem),
    )


def _edit(event: dict[str, Any], args: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The call that the model made has the arguments; the event has only a part of them."""
    meta = event.get("tool_call_metadata") or {}
    for choice in (meta.get("model_response") or {}).get("choices") or []:
        for call in (choice.get("message") or {}).get("tool_calls") or []:
            if call.get("id") in (None, meta.get("tool_call_id")):
                return arguments((call.get("function") or {}).get("arguments"))
    return {"command": "create", "path": args.get("path"), "file_text": args.get("content")}, None


def _observed(event: dict[str, Any] | None) -> Observed | None:
    if event is None:
        return None
    extras = event.get("extras") or {}
    # What an edit left is told whole, and says more than the diff that the model was shown.
    text = extras.get("new_content") if event.get("observation") == "edit" else None
    code = (extras.get("metadata") or {}).get("exit_code", extras.get("exit_code"))
    return Observed(text=plain(text if isinstance(text, str) else event.get("content")), exit_code=code)


def _call(response: dict[str, Any]) -> Call:
    usage = response.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Call(
        id=response.get("id"),
        tokens=Tokens(
            prompt=usage.get("prompt_tokens"),
            cached=details.get("cached_tokens", usage.get("cache_read_input_tokens")),
            completion=usage.get("completion_tokens"),
        ),
    )


def _finished(steps: list[Moment]) -> str | None:
    return "finish" if steps and steps[-1].act.tool == "finish" else None
