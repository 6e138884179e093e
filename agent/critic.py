"""A critic: the model is shown an issue and the changes that several tries made for it, and names one. One short call;
its word is used only where what was executed does not decide. An answer that can't be used is no word at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from threading import Event

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.outcome import Patch
from agent.prompts.fence import bounded, tag_for, visible
from agent.prompts.templates import fill
from agent.protocols import CallsForced, Conversation, Journal, Model
from agent.tools.text import clean
from agent.types import AssistantMessage, Frozen, Limits, Price, Sampling, Task, ToolSpec, UserMessage

FILE = "critic.md"
TOOL = "choose"
ANSWER_TOKENS = 512
_WHY = 300  # characters of its reason that are kept
_SHARES = (1.0, 0.5, 0.25, 0.1)


class Opinion(Frozen):
    """`number`: of the try whose change it names."""

    number: int
    why: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    change: int = Field(ge=1, description="the number of the best change")
    why: str = Field(default="", description="in one sentence")


SPEC = ToolSpec(
    name=TOOL,
    description="Name the best of the changes.",
    parameters={
        "type": "object",
        "properties": {
            "change": {"type": "integer", "minimum": 1, "description": "the number of the best change"},
            "why": {"type": "string", "description": "in one sentence"},
        },
        "required": ["change", "why"],
        "additionalProperties": False,
    },
)


def ask(
    model: Model,
    task: Task,
    patches: Mapping[int, Patch],
    *,
    journal: Journal,
    limits: Limits,
    price: Price,
    deadline: float,
    cancel: Event,
) -> Opinion | None:
    """Its opinion on `patches`, by the number of their try; None where it has none that can be used, or where the
    changes don't fit its window. At most `ANSWER_TOKENS` are generated; `deadline` is a time.monotonic() value. Raises
    `agent.errors.LimitsExceeded` where a budget has no room, and what the model's adapter raises."""
    numbers = sorted(patches)
    limits = limits.in_window(model.window)
    sampling = Sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)
    for share in _SHARES:
        with closing(model.open(fill(FILE, "system", tool=TOOL), [SPEC])) as talk:
            talk.add([UserMessage(content=told(task, [patches[number] for number in numbers], limits, share))])
            if talk.tokens + ANSWER_TOKENS > limits.context_tokens:
                continue
            named = _named(_answer(talk, sampling, journal, price, deadline, cancel), len(numbers))
            return None if named is None else Opinion(number=numbers[named.change - 1], why=clean(named.why)[:_WHY])
    return None


def told(task: Task, patches: Sequence[Patch], limits: Limits, share: float = 1.0) -> str:
    """What is shown, numbered from 1: the issue takes at most about a quarter of the window (some four bytes a token),
    all changes together at most about a half, or `share` of that."""
    part = int(limits.context_tokens * share)
    body = bounded(visible(task.body), part) or "(the issue has no text beyond its title)"
    title = " ".join(visible(task.title).split())[:300]
    shown = [fill(FILE, "issue", title=title, tag=tag_for("issue_text", body), body=body)]
    for number, patch in enumerate(patches, 1):
        diff = bounded(clean(patch.diff), 2 * part // len(patches))
        files = f"{len(patch.files)} file{'' if len(patch.files) == 1 else 's'}"
        tag = tag_for("change", diff)
        shown.append(fill(FILE, "change", number=str(number), files=files, tag=tag, diff=diff))
    return "\n\n".join([*shown, fill(FILE, "ask", count=str(len(patches)), tool=TOOL)])


def _answer(
    talk: Conversation, sampling: Sampling, journal: Journal, price: Price, deadline: float, cancel: Event
) -> AssistantMessage | None:
    """Held to the call's form where that can be; None where it was broken off."""
    generate = talk.complete_call if isinstance(talk, CallsForced) else talk.complete
    with journal.reserve(0, talk.tokens, sampling.max_tokens):
        completion = generate(sampling, deadline=deadline, cancel=cancel)
    journal.spend(0, completion.usage, price.cost(completion.usage), completion.seconds)
    return None if completion.finish_reason == "abort" else completion.message


def _named(message: AssistantMessage | None, count: int) -> _Answer | None:
    """The call's arguments, or a text that is nothing but such arguments; only the first of several calls counts."""
    if message is None:
        return None
    texts = [made.arguments for made in message.tool_calls[:1] if made.name == TOOL] or [message.content]
    try:
        named = _Answer.model_validate(json.loads(texts[0].strip().removeprefix("```json").strip("`\n ")))
    except (ValueError, ValidationError, RecursionError):
        return None
    return named if named.change <= count else None
