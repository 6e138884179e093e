"""What a repository says about changes made by machines: its owners' word in its settings, else what its guides say.

A guide is read sentence by sentence, for one that names such contributions and turns them away. That is a reading of
prose, so it errs: owners who want the service say so in their settings, which count first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from worker.stages import texts
from worker.stages.config import PATH, RepositoryConfig

GUIDES = (
    "CONTRIBUTING.md",
    "CONTRIBUTING.rst",
    "CONTRIBUTING",
    ".github/CONTRIBUTING.md",
    "docs/CONTRIBUTING.md",
    "AI_POLICY.md",
    ".github/AI_POLICY.md",
    "AGENTS.md",
)
GUIDE_BYTES = 128 << 10

_MACHINE = (
    r"(?:(?:generative[ -])?\bA\.?I\.?\b|artificial intelligence|\bLLMs?\b|large language models?|"
    r"\b(?:chat ?gpt|copilot|claude|gemini|devstral)\b|machine[ -]generated)"
)
_MADE = r"(?:contributions?|pull requests?|\bPRs?\b|patches|commits?|submissions?|code|changes|content)"
_NOT = (
    r"(?:(?:do|does|will|can|must|may|should|shall|are|is)(?: not|n['\u2019]t)\b(?:[ \w]{0,20}\b)?"
    r"(?:accept|allow|permit|welcome|use|submit|open|send|merge|want)|"
    r"not (?:be )?(?:accepted|allowed|permitted|welcome|merged)|\bno\b|"
    r"forbid(?:den|s)?|prohibit(?:ed|s)?|\bban(?:ned|s)?\b|reject(?:ed|s)?|refuse[ds]?|disallow(?:ed|s)?|"
    r"will be closed|closed without)"
)
#: Sentences that only set conditions, or are about something else that is not allowed.
_UNLESS = re.compile(
    r"\b(unless|without (?:\w+ ){0,3}(?:review|disclos|understand|test)|undisclosed|disclos)", re.IGNORECASE
)
_NAMES = re.compile(_MACHINE, re.IGNORECASE)
_MAKES = re.compile(_MADE, re.IGNORECASE)
_TURNS_AWAY = re.compile(_NOT, re.IGNORECASE)
_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_LONGEST = 400  # characters; what is longer is no sentence


def forbidden(settings: RepositoryConfig, read: Callable[[str], bytes | None]) -> str | None:
    """Why the service may not work here, for people; None where it may."""
    if settings.ai_contributions == "allowed":
        return None
    if settings.ai_contributions == "forbidden":
        return f"this repository's settings forbid it (`ai_contributions` in `{PATH}`)"
    for path in GUIDES:
        text = read(path)
        found = None if text is None else _sentence(text.decode("utf-8", "replace"))
        if found is not None:
            return (
                f"`{path}` seems to turn such contributions away: {texts.inline(found, _LONGEST)} If that is wrong, "
                f"its owners can write `ai_contributions: allowed` into `{PATH}`"
            )
    return None


def _sentence(text: str) -> str | None:
    for sentence in _sentences(_HIDDEN.sub("", text)):
        if (
            _NAMES.search(sentence)
            and _MAKES.search(sentence)
            and _TURNS_AWAY.search(sentence)
            and not _UNLESS.search(sentence)
        ):
            return sentence
    return None


def _sentences(text: str) -> Iterator[str]:
    """Of prose in Markdown: lines of one paragraph belong together, items of a list do not."""
    for paragraph in re.split(r"\n\s*\n|\n\s*(?=[-*+#>|]\s)", text):
        joined = " ".join(paragraph.split()).strip("-*+#>| _")
        yield from (s for s in re.split(r"(?<=[.!?:;])\s+", joined) if len(s) <= _LONGEST)
