"""What a person says to the service in a comment: `/devstral VERB …` at the beginning of a line, or its name mentioned
there. Text in, a command out.

Code, quotations and HTML comments say nothing: who shows or answers a command does not give one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from agent.types import Frozen

SLASH = "/devstral"
WORDS = 8_000  # characters of what a command says besides its verb


class Verb(StrEnum):
    FIX = "fix"  #: work on the issue
    RETRY = "retry"  #: the same, after an end
    STOP = "stop"  #: end what is under way
    STATUS = "status"  #: show again how it stands
    EXPLAIN = "explain"  #: an answer in words, no change
    REVISE = "revise"  #: change the pull request as said
    UNKNOWN = "unknown"  #: something else was asked for


#: What each verb does, for people.
HELP = {
    Verb.FIX: "work on the issue",
    Verb.RETRY: "try again after an end",
    Verb.STOP: "end what is under way",
    Verb.STATUS: "show how it stands",
    Verb.EXPLAIN: "answer a question about the issue or the change, in words alone",
    Verb.REVISE: "change the pull request as you say",
}


class Command(Frozen):
    """`text`: what was said besides the verb, until the end of the comment; what was not understood for UNKNOWN."""

    verb: Verb
    text: str = ""


_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SLASH = re.compile(rf" {{0,3}}{SLASH}(?![\w/-])[ \t]*(.*)", re.IGNORECASE)
_VERB = re.compile(
    r"[\s,:]*(?:please[\s,]+)?(?P<verb>[A-Za-z]+)(?![\w/-])[\s,:]*(?P<rest>.*)", re.DOTALL | re.IGNORECASE
)


def command(body: str, *, mention: str | None = None, otherwise: Verb = Verb.UNKNOWN) -> Command | None:
    """The first command of a comment; None where it gives none. `mention`: the name people mention it by, without @.

    Without a verb that is known, it is UNKNOWN; a mention is then what `otherwise` says.
    """
    lines = _HIDDEN.sub(_as_lines, body.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    for index in _own_words(lines):
        said = _SLASH.match(lines[index])
        if said is not None:
            return _command("\n".join([said[1], *lines[index + 1 :]]), Verb.UNKNOWN)
        rest = None if mention is None else _mentioned(lines[index], mention)
        if rest is not None:
            return _command("\n".join([rest, *lines[index + 1 :]]), otherwise)
    return None


def _command(text: str, otherwise: Verb) -> Command:
    found = _VERB.match(text)
    verb = None if found is None else found["verb"].lower()
    if found is not None and verb in HELP:
        return Command(verb=Verb(verb), text=found["rest"].strip()[:WORDS])
    return Command(verb=otherwise, text=text.strip()[:WORDS])


def _mentioned(line: str, name: str) -> str | None:
    """What follows the mention at the beginning of a line; only there is it an address, and not a word in passing."""
    found = re.match(rf" {{0,3}}@{re.escape(name)}(?:\[bot\])?(?![\w-])[\s,:]*(.*)", line, re.IGNORECASE)
    return None if found is None else found[1]


def _as_lines(hidden: re.Match[str]) -> str:
    return "\n" * hidden[0].count("\n")


def _own_words(lines: list[str]) -> Iterator[int]:
    """Which lines are a person's own words: neither code nor quoted."""
    fence: str | None = None
    for index, line in enumerate(lines):
        marks = _FENCE.match(line)
        if fence is not None:
            if marks is not None and marks[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
        elif marks is not None:
            fence = marks[1]
        elif not line.startswith(("    ", "\t")) and not line.lstrip().startswith(">"):
            yield index
