"""What an agent answers that changed nothing: a question, a duplicate, work that is done already, a fault that does not
show. Each is a claim, and counts only with what it has to name; anything else is unsolved, in the agent's own words."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.evidence import Verdict
from agent.outcome import Outcome
from agent.types import Frozen

_KINDS = {
    "QUESTION": Outcome.QUESTION,
    "DUPLICATE": Outcome.DUPLICATE,
    "ALREADY FIXED": Outcome.ALREADY_FIXED,
    "NOT REPRODUCIBLE": Outcome.NOT_REPRODUCIBLE,
}
_LINE = re.compile(rf"^[\W_]*({'|'.join(_KINDS)})\b[\W_]*?:[\s*_]*(.*)$", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w/])#(\d{1,9})\b")
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")
_PLACE = re.compile(r"[^\s`'\"()<>,;]+")
_LINE_NUMBER = re.compile(r"(?::\d+(?:[-:]\d+)*|#L\d+(?:-L\d+)?)$")
_LONGEST = 1000  # characters of what is named


class Claim(Frozen):
    """`named`: what stands on its line: the question, the issue, the place, the command."""

    kind: Outcome
    named: str


def claim(summary: str) -> Claim | None:
    """The claim that a last answer opens with; None where it makes none. What is named may stand on the next line."""
    lines = [line.strip() for line in summary.strip().split("\n")]
    match = _LINE.match(lines[0])
    if match is None:
        return None
    named = match[2].strip() or next((line for line in lines[1:] if line), "")
    return Claim(kind=_KINDS[match[1].upper()], named=_bare(named)[:_LONGEST])


def judged(
    claim: Claim, *, own: int | None, exists: Callable[[str], bool], runs: Callable[[str], str | None]
) -> Verdict:
    """The claim checked. `own`: the issue's own number; `exists`: whether the base has this path or commit; `runs`: has
    the service execute a command on the base, and says why that did not end well, or None where it did."""
    kind, named = claim.kind, claim.named
    if kind is Outcome.QUESTION:
        question, mark, rest = named.partition("?")
        if not mark:
            return _unsolved("it says that it has a question, but asks none")
        if "?" in rest:
            return _unsolved(f"it asks several questions where one is to be asked: {named}")
        return Verdict(outcome=kind, reason=f"it needs an answer first: {question.strip()}?")
    if kind is Outcome.DUPLICATE:
        others = [number for number in map(int, _NUMBER.findall(named)) if number != own]
        if not others:
            return _unsolved("it says that this is a duplicate, but names no other issue")
        return Verdict(outcome=kind, reason=f"by the agent's word a duplicate of #{others[0]}; nothing was executed")
    if kind is Outcome.ALREADY_FIXED:
        places = [place for place in _places(named) if exists(_LINE_NUMBER.sub("", place))]
        if not places:
            return _unsolved(f"it says that this is fixed already, but names nothing that is there: {named}")
        return Verdict(outcome=kind, reason=f"by the agent's word fixed already: {', '.join(places)}")
    if not named:
        return _unsolved("it says that it could not reproduce this, but names no command")
    problem = runs(named)
    if problem is not None:
        return _unsolved(f"it says that it could not reproduce this with {named}, but that {problem}")
    return Verdict(outcome=kind, reason=f"{named} ends without an error on the base, executed by the service")


def _places(named: str) -> list[str]:
    found = [place.rstrip(".:") for place in _PLACE.findall(named)]
    return list(dict.fromkeys([*_COMMIT.findall(named), *(place for place in found if "." in place or "/" in place)]))


def _bare(text: str) -> str:
    """Without the marks that set it apart as code."""
    match = re.fullmatch(r"(`+)\s?(.*?)\s?\1", text)
    return match[2] if match else text


def _unsolved(reason: str) -> Verdict:
    return Verdict(outcome=Outcome.UNSOLVED, reason=f"no file was changed; {reason}")
