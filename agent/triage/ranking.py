"""Which issues are worth an attempt first, and the reasons why others are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.triage.asking import Asked
from agent.triage.assessment import Difficulty, Kind, Risk
from agent.triage.backlog import BacklogIssue
from agent.types import Frozen

_DIFFICULTIES, _RISKS = list(Difficulty), list(Risk)
_WORTH = [Kind.BUG, Kind.DOCS, Kind.FEATURE]


class Ranked(Frozen):
    """`rank` from 1; None where no attempt is advised, and `why_not` says why. `also`: issues that the same change
    would close."""

    issue: BacklogIssue
    asked: Asked | None
    rank: int | None = None
    why_not: str | None = None
    also: tuple[int, ...] = ()
    same_as: int | None = None


def ranked(
    issues: Sequence[BacklogIssue], answers: Mapping[int, Asked], groups: Sequence[Sequence[int]] = ()
) -> list[Ranked]:
    """All issues: the advised ones in order, then the others by number. An issue of a group counts with its first; one
    that the model calls a duplicate counts with its original, if that is looked through, too."""
    known = {issue.number for issue in issues}
    leader = {number: group[0] for group in groups for number in group[1:]}
    for number, asked in answers.items():
        original = asked.assessment and asked.assessment.duplicate_of
        if original in known and number not in leader:
            leader[number] = original
    also: dict[int, list[int]] = {}
    for number in leader:
        top = _top(number, leader)
        if top != number:
            also.setdefault(top, []).append(number)
    advised: list[Ranked] = []
    others: list[Ranked] = []
    for issue in issues:
        answer, top = answers.get(issue.number), _top(issue.number, leader)
        same = None if top == issue.number else top
        why_not = _why_not(answer, same)
        one = Ranked(
            issue=issue, asked=answer, why_not=why_not, same_as=same, also=tuple(sorted(also.get(issue.number, ())))
        )
        (others if why_not else advised).append(one)
    advised.sort(key=_order)
    others.sort(key=lambda one: one.issue.number)
    return [one.model_copy(update={"rank": place}) for place, one in enumerate(advised, start=1)] + others


def _top(number: int, leader: Mapping[int, int]) -> int:
    """The issue that stands for `number`. A circle of duplicates is one of them: its oldest."""
    seen = [number]
    while seen[-1] in leader:
        if (following := leader[seen[-1]]) in seen:
            return min(seen[seen.index(following) :])
        seen.append(following)
    return seen[-1]


def _why_not(asked: Asked | None, same: int | None) -> str | None:
    if same is not None:
        return f"the same as #{same}"
    if asked is None:
        return "not looked at"
    if asked.assessment is None:
        return asked.failure or "no answer"
    if asked.assessment.solvable:
        return None
    return {
        Kind.QUESTION: "a question",
        Kind.DUPLICATE: "a duplicate",
        Kind.STALE: "stale",
        Kind.ALREADY_FIXED: "already fixed",
    }.get(asked.assessment.kind, asked.assessment.reason or "not solvable")


def _order(one: Ranked) -> tuple[int, ...]:
    """Easy before hard, safe before risky, bugs first; of equals the one that closes more, then the older."""
    assert one.asked is not None
    found = one.asked.assessment
    assert found is not None
    return (
        _DIFFICULTIES.index(found.difficulty),
        _RISKS.index(found.risk),
        _WORTH.index(found.kind),
        len(found.missing),
        -len(one.also),
        one.issue.number,
    )
