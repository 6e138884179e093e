"""Which of several tries of one task is the best: by what was executed first, then by how far tries agree with each
other, then by a critic's word, and at last by an order that always holds: the smaller change, the earlier try. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from agent.evidence import Verdict
from agent.hygiene import is_test_path, sections_by_path
from agent.noticed import lines_of
from agent.outcome import Evidence, Outcome, Patch
from agent.types import ExitStatus, Frozen

MOST = 8  #: tries of one run
_STEP, _HOTTEST = 0.2, 1.0

#: What an outcome is worth beside others of the same task. An answer in words was checked, so it is worth more than a
#: change that failed; a change of which something is shown is worth more than words.
_WORTH: Mapping[Outcome, int] = MappingProxyType(
    {
        Outcome.FIXED: 5,
        Outcome.PARTIAL: 4,
        Outcome.ALREADY_FIXED: 3,
        Outcome.DUPLICATE: 3,
        Outcome.NOT_REPRODUCIBLE: 3,
        Outcome.QUESTION: 3,
        Outcome.ANSWERED: 3,
        Outcome.TRIAGED: 3,
        Outcome.UNSOLVED: 2,
        Outcome.SETUP_FAILED: 1,
        Outcome.REFUSED: 0,
    }
)


class Try(Frozen):
    """One finished try with its evidence. `evidence` is that of the newest verification; tries of an equal change have
    the same."""

    number: int
    patch: Patch
    verdict: Verdict
    exit_status: ExitStatus
    evidence: tuple[Evidence, ...] = ()
    named: bool = False  #: by the critic

    @property
    def standing(self) -> tuple[int, ...]:
        """What was executed for it, the better the greater: the outcome; whether a test shows the problem gone; whether
        nothing that was there before is lost; whether each test ended the same way whenever it was run; whether the
        agent itself was done."""
        told = {name for piece in self.evidence for name, tests in piece.detail.tests.items() if tests.total}
        again = any(piece.stage == "after_again" for piece in self.evidence)
        return (
            _WORTH[self.verdict.outcome],
            "reproduced" in told,
            told.isdisjoint({"broken", "missing", "skipped", "new_failing"}),
            "flaky" not in told and not again,
            self.exit_status is ExitStatus.SUBMITTED,
        )

    @property
    def lines(self) -> int:
        """Added and removed; a binary file counts as one."""
        return sum(1 if f.added is None else f.added + (f.removed or 0) for f in self.patch.files)


class Choice(Frozen):
    """`order`: numbers of the tries, the best first. `by`: what decided between the best one and the next that is
    another change, for people; empty where there was nothing to choose from."""

    order: tuple[int, ...]
    by: str = ""

    @property
    def best(self) -> int:
        return self.order[0]


def temperature(base: float, number: int) -> float:
    """Of the try with this number, counted from 0: each a little above the one before."""
    return max(base, min(_HOTTEST, round(base + _STEP * number, 3)))


def normalised(patch: Patch) -> frozenset[tuple[str, tuple[str, ...]]]:
    """What a change does, apart from where its lines stand, blanks at their ends and the tests it brings: by path, the
    lines that it takes and gives. A change of nothing but tests is looked at whole."""
    paths = frozenset(change.path for change in patch.files)
    sources = frozenset(path for path in paths if not is_test_path(path)) or paths
    sections = sections_by_path(patch.diff)
    return frozenset((path, _hunks(sections.get(path, ""))) for path in sources)


def agreement(one: Try, tries: Sequence[Try]) -> tuple[int, int]:
    """How many other tries make the same change, and how many change just the same files."""
    if one.patch.empty:
        return 0, 0
    mine = normalised(one.patch)
    others = [normalised(other.patch) for other in tries if other.number != one.number and not other.patch.empty]
    files = {path for path, _ in mine}
    return sum(other == mine for other in others), sum({path for path, _ in other} == files for other in others)


def distinct(patches: Mapping[int, Patch]) -> tuple[int, ...]:
    """The first number of each change that differs from the others, of those that change something."""
    first = {normalised(patches[number]): number for number in sorted(patches, reverse=True) if patches[number].files}
    return tuple(sorted(first.values()))


def choose(tries: Sequence[Try]) -> Choice:
    """Raises ValueError where there is no try."""
    if not tries:
        raise ValueError("no try to choose from")
    named = {normalised(one.patch) for one in tries if one.named}  # whoever makes the change that was named
    keys = {
        one.number: (
            one.standing,
            agreement(one, tries),
            normalised(one.patch) in named,
            -one.lines,
            -one.number,
        )
        for one in tries
    }
    order = tuple(sorted(keys, key=lambda number: keys[number], reverse=True))
    changes = {one.number: (normalised(one.patch), one.standing) for one in tries}
    other = next((number for number in order if changes[number] != changes[order[0]]), None)
    if len(order) == 1:
        return Choice(order=order)
    if other is None:
        return Choice(order=order, by=_SAME if changes[order[0]][0] else _WORDS[-1])
    said = next(word for word, a, b in zip(_WORDS, keys[order[0]], keys[other], strict=True) if a != b)
    return Choice(order=order, by=said)


_SAME = "all of them made the same change"
_WORDS = (
    "chosen by what was executed",
    "chosen since most tries agree on it",
    "chosen by the model's own comparison, since the evidence is the same",
    "the smallest of those with the same evidence",
    "the first of those with the same evidence",
)


def _hunks(section: str) -> tuple[str, ...]:
    """A file's lines taken and given, each kind in its order. Of a binary file its whole section."""
    changed = [sign + line.expandtabs().rstrip() for sign in "-+" for line in lines_of(section, sign) if line.strip()]
    return tuple(changed) or (section,)
