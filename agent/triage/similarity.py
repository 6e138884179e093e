"""Issues that say the same: found by their words alone, before a model is asked."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from agent.prompts.fence import visible
from agent.triage.backlog import BacklogIssue
from agent.types import Frozen

ALIKE = 0.25  # worth showing to a model as a candidate
SAME = 0.75  # one report made twice
CANDIDATES = 4  # that a model is shown of one issue
_OPENING = 3_000  # characters of a text that are compared: reports differ at their end, in logs and versions
_CHUNK = 512  # rows of the comparison at once: 5,000 issues would be 25 million figures

# What templates and trackers put into every report says nothing about whether two are the same.
_NOISE = re.compile(r"https?://\S+|^#+ [^\n]*$|^[ \t]*- \[[ x]\][^\n]*$", re.MULTILINE)


class Similar(Frozen):
    """`score`: 0 to 1, the mean of the cosines of titles and of texts; of titles alone where a text is empty."""

    number: int
    score: float


def similar(issues: Sequence[BacklogIssue], *, at_least: float = ALIKE) -> dict[int, tuple[Similar, ...]]:
    """To each issue those that are most like it, the most alike first, CANDIDATES at most."""
    found: dict[int, tuple[Similar, ...]] = {issue.number: () for issue in issues}
    # Parts of words bridge typing errors, endings and languages that put no spaces between words; in texts whole words
    # are enough, and rare ones count most: names of functions, errors, files.
    titles = _weights([issue.title for issue in issues], analyzer="char_wb", ngram_range=(3, 5))
    texts = _weights([_opening(issue) for issue in issues], analyzer="word")
    if titles is None:
        return found
    told = np.zeros(len(issues), bool) if texts is None else np.asarray(texts.sum(axis=1)).ravel() > 0
    for start in range(0, len(issues), _CHUNK):
        rows = slice(start, start + _CHUNK)
        scores = (titles[rows] @ titles.T).toarray()
        if texts is not None:
            both = told[rows, None] & told[None, :]
            scores = np.where(both, (scores + (texts[rows] @ texts.T).toarray()) / 2, scores)
        for row, issue in enumerate(issues[rows]):
            scores[row, start + row] = 0
            best = np.argsort(-scores[row], kind="stable")[:CANDIDATES]
            found[issue.number] = tuple(
                Similar(number=issues[i].number, score=round(float(scores[row, i]), 3))
                for i in best
                if scores[row, i] >= at_least
            )
    return found


def groups(issues: Sequence[BacklogIssue], alike: dict[int, tuple[Similar, ...]]) -> list[tuple[int, ...]]:
    """Numbers of issues that are one report made more than once, each group by age: its first is the one to fix."""
    leader = {issue.number: issue.number for issue in issues}

    def first(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for number, others in alike.items():
        for other in others:
            if other.score >= SAME:
                low, high = sorted((first(number), first(other.number)))
                leader[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for issue in issues:
        members[first(issue.number)].append(issue.number)
    return [tuple(sorted(one)) for _, one in sorted(members.items()) if len(one) > 1]


def _weights(texts: Sequence[str], **how: Any) -> Any:
    """A sparse matrix, a row of length 1 (or 0) for each text; None where no text has a word."""
    try:
        return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **how).fit_transform(texts)
    except ValueError:  # an empty vocabulary
        return None


def _opening(issue: BacklogIssue) -> str:
    return _NOISE.sub(" ", visible(issue.body))[:_OPENING]
