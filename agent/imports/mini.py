"""mini-swe-agent: format 1.1 (an object of messages, each answer's calls parsed beside it), and the older bare list of
messages whose actions are fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agent.imports.shape import arguments, patch, plain
from agent.recording import Act, Call, Harness, Moment, Observed, Recording, Tokens, total

_FENCED = re.compile(r"```mswea_bash_command[ \t]*\n(.*?)\n?```", re.DOTALL)
_OUTPUT = re.compile(r"<returncode>(-?\d+)</returncode>\s*<output>\n?(.*?)</output>", re.DOTALL)
SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def fits(value: Any) -> bool:
    return str(value.get("trajectory_format", "")).startswith("mini-swe-agent") and isinstance(
        value.get("messages"), list
    )


def read(value: Any) -> Sequence[Recording]:
    info, messages = value.get("info") or {}, value["messages"]
    config = info.get("config") or {}
    results = {message["tool_call_id"]: message for message in messages if message.get("tool_call_id")}
    steps: list[Moment] = []
    calls: list[Call] = []
    for message in messages:
        if message.get("role") != "assistant":
            continue
        for number, (command, identity, problem) in enumerate(_asked(message)):
            steps.append(
                Moment(
                    index=len(steps),
                    thought=plain(message.get("content")) if number == 0 else "",
                    act=Act(tool="bash", arguments={"command": command}, problem=problem),
                    observed=_observed(results.get(identity)),
                    call=len(calls),
                )
            )
        calls.append(_call(message.get("extra") or {}))
    stats = info.get("model_stats") or {}
    return [
        Recording(
            harness=Harness.MINI_SWE_AGENT,
            version=value["trajectory_format"],
            task=_said(messages, "user"),
            system=_said(messages, "system"),
            instance_id=value.get("instance_id"),
            root=(config.get("environment") or {}).get("cwd") or "/testbed",
            model=(config.get("model") or {}).get("model_name"),
            steps=tuple(steps),
            calls=tuple(calls),
            totals=total(calls, count=stats.get("api_calls"), usd=stats.get("instance_cost")),
            exit_status=info.get("exit_status"),
            patch=patch(info.get("submission")),
        )
    ]


def _asked(message: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """(command, its call's id, what is wrong with it) of each action: what the harness took of the answer, else the
    calls as they came. An answer without any is a step, too."""
    actions = (message.get("extra") or {}).get("actions")
    if actions is None:
        parsed = [
            (call.get("id"), *arguments((call.get("function") or {}).get("arguments")))
            for call in message.get("tool_calls") or []
        ]
        found = [(plain(given.get("command")), identity, problem) for identity, given, problem in parsed]
    else:
        found = [(plain(action.get("command")), action.get("tool_call_id"), None) for action in actions]
    return found or [("", None, "there is no action in it")]


def _observed(message: dict[str, Any] | None) -> Observed | None:
    """The submitting call has no result."""
    if message is None:
        return None
    extra = message.get("extra") or {}
    raw = plain(extra.get("raw_output"))
    if extra.get("exception_info"):
        raw += plain(extra["exception_info"])
    return Observed(text=raw, exit_code=extra.get("returncode"))


def _call(extra: dict[str, Any]) -> Call:
    response = extra.get("response") or {}
    usage = response.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Call(
        id=response.get("id"),
        tokens=Tokens(
            prompt=usage.get("prompt_tokens"),
            cached=details.get("cached_tokens"),
            completion=usage.get("completion_tokens"),
        ),
        usd=extra.get("cost"),
    )


def _said(messages: list[dict[str, Any]], role: str) -> str:
    return next((plain(message.get("content")) for message in messages if message.get("role") == role), "")


def fits_messages(value: Any) -> bool:
    return all(isinstance(entry, dict) and entry.keys() == {"role", "content"} for entry in value) and any(
        entry["role"] == "assistant" and _FENCED.search(plain(entry["content"])) for entry in value
    )


def read_messages(value: Any) -> Sequence[Recording]:
    """No cost, no model and no base are told. An answer with another number of blocks than one was refused."""
    steps: list[Moment] = []
    for index, message in enumerate(value):
        if message["role"] != "assistant":
            continue
        text = plain(message["content"])
        blocks = _FENCED.findall(text)
        after = value[index + 1] if index + 1 < len(value) else {}
        said = plain(after.get("content")) if after.get("role") == "user" else ""
        shown = _OUTPUT.search(said)
        steps.append(
            Moment(
                index=len(steps),
                thought=_FENCED.sub("", text).strip(),
                act=Act(
                    tool="bash",
                    arguments={"command": blocks[0]} if blocks else {},
                    problem=None if len(blocks) == 1 else f"{len(blocks)} actions in place of one",
                ),
                observed=Observed(text=shown[2], exit_code=int(shown[1])) if shown else None,
                call=len(steps),
            )
        )
    ended = bool(steps) and SUBMIT in str(steps[-1].act.arguments.get("command", ""))
    return [
        Recording(
            harness=Harness.MINI_SWE_AGENT,
            version="messages",
            purpose="sample",
            task=_said(value, "user"),
            system=_said(value, "system"),
            root="/testbed",
            steps=tuple(steps),
            calls=tuple(Call() for _ in steps),
            totals=total((), count=len(steps)),
            exit_status="Submitted" if ended else None,
        )
    ]
