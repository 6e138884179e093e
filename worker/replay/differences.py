"""What it means that a step's result is another one than was recorded. Where nothing here explains a difference it is
ours: that is the default, and every other verdict has its reason beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    OURS = "ours"
    ENVIRONMENT = "environment"
    TIME = "time"
    ORDER = "order"


@dataclass(frozen=True)
class Difference:
    kind: Kind
    why: str


@dataclass(frozen=True)
class Known:
    """What is known at a step besides its result. `changed`: the files that differ from the base now; `modules`: what
    the repository itself can be imported as; `base_lines`: those of the shown file, where it is known not to be the
    recorded one; `elsewhere`: the commit that the recording had checked out by then."""

    command: str = ""
    changed: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    base_lines: frozenset[str] = frozenset()
    elsewhere: str | None = None
    exit_codes: tuple[int | None, int | None] = (None, None)


def normal(text: str) -> str:
    """Without what a terminal made of it: line ends, overwritten text, colours, blanks at line ends."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r\n", "\n"))
    text = re.sub(r"[^\n]\x08", "", re.sub(r"[^\n]*\r(?!\n)", "", text))
    return "\n".join(line.rstrip() for line in text.expandtabs(8).split("\n")).strip("\n")


def _replaced(pattern: str, by: str = "·") -> Callable[[str], str]:
    found = re.compile(pattern, re.MULTILINE)
    return lambda text: found.sub(by, text)


# Cumulative: a mask is named where it brought both texts nearer to each other.
_MASKS: tuple[tuple[Kind, str, Callable[[str], str]], ...] = (
    (Kind.TIME, "how long it took", _replaced(r"\b\d+\.\d+ ?s(?:econds)?\b(?: \(\d+:\d\d:\d\d\))?")),
    (
        Kind.TIME,
        "dates and times",
        _replaced(
            r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?\b"
            r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d+ +(?:\d\d:\d\d|\d{4})\b"
        ),
    ),
    (Kind.ENVIRONMENT, "object ids and addresses", _replaced(r"\b0x[0-9a-f]{6,}\b|\b\d{12,}\b")),
    (Kind.ENVIRONMENT, "temporary paths", _replaced(r"/[t]mp/[\w./-]+")),
    (
        Kind.ENVIRONMENT,
        "the lengths of abbreviated object ids in a diff",
        _replaced(r"^index ([0-9a-f]{7})[0-9a-f]*\.\.([0-9a-f]{7})[0-9a-f]*", r"index \1..\2"),
    ),
    (
        Kind.ENVIRONMENT,
        "owners, modes and sizes in a listing",
        _replaced(r"^[dl-][rwxsStT-]{9}[.+]? +\d+ +\S+ +\S+ +\d+(?= ·)|^total \d+(?:\.\d+)?[KMG]?$"),
    ),
    (
        Kind.ENVIRONMENT,
        "the marks below a traceback's lines, which not every Python draws",
        _replaced(r"^\s+[~^]+[~^\s]*\n", ""),
    ),
    (
        Kind.ENVIRONMENT,
        "where Python and its packages are",
        _replaced(
            r"/[\w./-]*(?:site-packages|dist-packages|lib/python3\.\d+|bin/python[\d.]*)|python3?(?=: )|/packages(?=/)"
        ),
    ),
    (
        Kind.ENVIRONMENT,
        "versions of Python and pytest",
        _replaced(
            r"^(?:platform \w+ -- .*|Python \d+\.\d+\.\d+\S*|(?:plugins|cachedir|configfile|rootdir).*)\n?",
            "",
        ),
    ),
    (
        Kind.ENVIRONMENT,
        "line numbers of the base and of Python in tracebacks",
        _replaced(r"(?<=, line )\d+|(?<=\.py:)\d+"),
    ),
    (Kind.ENVIRONMENT, "how wide a rule is", _replaced(r"={3,}|-{3,}")),
    (Kind.ENVIRONMENT, "columns of a listing", lambda text: re.sub(r"(?<=\S) {2,}(?=\S)", " ", text)),
)

_GIT = re.compile(r"\bgit +(?:-\S+ +)*(?:checkout|log|show|branch|blame|status|rev-parse|fetch|stash)\b")
_CHECKOUT = re.compile(r"\bgit +checkout +(?:-\S+ +)*([0-9a-f]{7,40})\b")
_NETWORK = re.compile(
    r"\bpip3? +(?:install|download|index)|\bcurl |\bwget |\bgit +(?:clone|fetch|pull)\b|\bapt(?:-get)? "
)
_MISSING = re.compile(r"No module named '([\w.]+)'|No module named ([\w.]+)$|(\S+): command not found", re.MULTILINE)
_LISTING = re.compile(r"^ls(?: +-[AaFR1]+)?(?: +[\w./]+)?$")
_NUMBER = re.compile(r"^\d+[:|]")
_READS = re.compile(
    r"^\s*(?:cd [^&;|]+&& *)?(?:ls|cat|sed -n|head|tail|grep|find|nl|wc|awk|pwd|read_file|open|goto|tree"
    r"|scroll_up|scroll_down|open_file|goto_line|find_file|search_dir|search_file)\b"
)
_WRITES = re.compile(r"(?<![0-9&])>(?!&)|\bsed -i|\brm\b|\bmv\b|\bcp\b|\btee\b|-delete\b|-exec (?!grep)")


def compare(recorded: str, replayed: str, known: Known) -> list[Difference]:
    """Nothing where both say the same. Otherwise each kind of difference with its reason; `ours` where one remains
    that nothing explains."""
    a, b = normal(recorded), normal(replayed)
    if a == b:
        return _exit(known)
    found: list[Difference] = []
    if _LISTING.match(known.command):
        a, b = ("\n".join(text.split()) for text in (a, b))
        if a == b:
            return [Difference(Kind.ENVIRONMENT, "how a listing is laid out"), *_exit(known)]
    apart = _apart(a, b)
    for kind, why, mask in _MASKS:
        masked = normal(mask(a)), normal(mask(b))
        if masked[0] == masked[1] or _apart(*masked) < apart:
            a, b = masked
            apart = _apart(a, b)
            found.append(Difference(kind, why))
        if a == b:
            return [*found, *_exit(known)]
    if sorted(a.split("\n")) == sorted(b.split("\n")):
        return [*found, Difference(Kind.ORDER, "the same lines in another order"), *_exit(known)]
    reason = _reason(a, b, known)
    if reason is not None:
        return [*found, reason]
    first = next(
        (f"{x!r} was {y!r}" for y, x in zip(a.split("\n"), b.split("\n"), strict=False) if x != y), "its length"
    )
    return [*found, Difference(Kind.OURS, first[:240])]


def _exit(known: Known) -> list[Difference]:
    recorded, replayed = known.exit_codes
    if recorded is None or recorded == replayed:
        return []
    return [Difference(Kind.OURS, f"exit status {replayed} in place of {recorded}")]


def _apart(a: str, b: str) -> int:
    one, other = Counter(a.split("\n")), Counter(b.split("\n"))
    return (one - other).total() + (other - one).total()


def _reason(recorded: str, replayed: str, known: Known) -> Difference | None:
    """The environment's part in texts that differ beyond their form; None where it has none that is known."""
    if _NETWORK.search(known.command):
        return Difference(Kind.ENVIRONMENT, "it wants the network, and a sandbox has none")
    if _GIT.search(known.command):
        return Difference(Kind.ENVIRONMENT, "git's history: a source distribution has none")
    for text, who in ((replayed, "here"), (recorded, "where it was recorded")):
        for match in _MISSING.finditer(text):
            name = next(filter(None, match.groups()))
            if who != "here" or name.split(".")[0] not in known.modules:
                return Difference(Kind.ENVIRONMENT, f"{name} was not installed {who}")
    if known.elsewhere is not None:
        return Difference(
            Kind.ENVIRONMENT, f"it was recorded on {known.elsewhere[:12]}, which the base's history has not"
        )
    one, other = Counter(recorded.split("\n")), Counter(replayed.split("\n"))
    lines = [*(one - other), *(other - one)]
    if known.base_lines and all(_NUMBER.sub("", line) in known.base_lines for line in other - one):
        return Difference(Kind.ENVIRONMENT, "lines of the base, which is not the recorded one in this file")
    if _READS.match(known.command) and not _WRITES.search(known.command):
        touched = [path for path in known.changed if _names(path, known.command, lines)]
        if not touched:
            return Difference(
                Kind.ENVIRONMENT, "the base's own files, which nothing had changed yet, differ from the recorded"
            )
    return None


def checked_out(command: str) -> str | None:
    """The commit that a command line checks out last."""
    found: list[str] = _CHECKOUT.findall(command)
    return found[-1] if found else None


def _names(path: str, command: str, lines: list[str]) -> bool:
    """Whether a changed file has anything to do with a command or with the lines that differ."""
    base = path.rsplit("/", 1)[-1]
    return path in command or base in command or any(path in line or base in line for line in lines)
