"""What the model is told once it is at work: a new beginning, the review of its change, remarks about its way."""

from __future__ import annotations

from collections.abc import Sequence

from agent.outcome import Patch
from agent.prompts.fence import bounded, tag_for
from agent.prompts.templates import fill
from agent.repeats import Repeat
from agent.tools.text import elide
from agent.types import Action

FILE = "later.md"
_ARGUMENTS = 160  # characters of a call's arguments that are told
_LISTED = 12  # files that are named


def recap(*, notes: str, plan: str, patch: Patch | None, recent: Sequence[Action], room: int) -> str:
    """What follows the task when a conversation begins anew. `room`: about so many bytes for each of notes and diff,
    half of it for the last result."""
    parts = [fill(FILE, "recap")]
    if notes := bounded(notes.strip(), room):
        parts.append(fill(FILE, "notes", tag=tag_for("notes", notes), notes=notes))
    if plan:
        parts.append(fill(FILE, "plan", plan=plan))
    parts.append(_change("change", patch, room) if patch and not patch.empty else fill(FILE, "unchanged"))
    if recent:
        parts.append(fill(FILE, "recent", calls="\n".join(map(_line, recent))))
        result = elide(recent[-1].observation, room // 2)
        parts.append(fill(FILE, "last_result", tag=tag_for("result", result), result=result))
    return "\n\n".join(parts)


def review(patch: Patch, objections: Sequence[str], *, room: int) -> str:
    """What is asked before a change is proposed; its diff in about `room` bytes."""
    listed = "".join(fill(FILE, "objection", objection=objection) + "\n" for objection in objections[:_LISTED])
    return _change("review", patch, room, objections=listed)


def repeated(repeat: Repeat) -> str:
    """The remark that names a pattern."""
    if repeat.failing:
        return fill(FILE, "failing", count=str(repeat.steps))
    return fill(FILE, "repeated", what=_pattern(repeat))


def stuck(repeat: Repeat) -> str:
    """Why a trajectory ended that went on with a pattern, for people."""
    if repeat.failing:
        return f"{repeat.steps} answers in a row held only calls that failed, for the second time"
    return f"it went on repeating {_pattern(repeat)}, though it was told"


def wrap_up(used: str) -> str:
    return fill(FILE, "wrap_up", used=used)


def take_notes() -> str:
    return fill(FILE, "take_notes")


def call(action: Action) -> str:
    """`name(arguments)`, on one line and not too long."""
    arguments = " ".join(action.call.arguments.split())
    short = arguments if len(arguments) <= _ARGUMENTS else f"{arguments[:_ARGUMENTS]}..."
    return f"{action.call.name} {short}"


def _pattern(repeat: Repeat) -> str:
    calls = list(dict.fromkeys(map(call, repeat.actions)))
    return calls[0] if len(calls) == 1 else f"{', then '.join(calls)}, in turn"


def _line(action: Action) -> str:
    return f"- {call(action)}: {'done' if action.ok else 'failed'}"


def _change(section: str, patch: Patch, room: int, **more: str) -> str:
    diff = elide(patch.diff, room)
    named = [f"{change.status} {change.path}" for change in patch.files[:_LISTED]]
    if len(patch.files) > _LISTED:
        named.append(f"and {len(patch.files) - _LISTED} more")
    return fill(FILE, section, files=", ".join(named), tag=tag_for("diff", diff), diff=diff, **more)
