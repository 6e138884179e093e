"""A pull request's title and body: what its reviewer needs, in the order in which it is needed, in the form that the
repository's own template and titles have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from uuid import UUID

from agent.evidence import Verdict
from agent.hygiene import is_test_path
from agent.outcome import Evidence, FileChange, Outcome, Patch
from agent.summary import Summary, summary
from worker.stages import texts
from worker.stages.texts import LIMIT, fenced, inline

TEMPLATES = (
    ".github/pull_request_template.md",
    ".github/PULL_REQUEST_TEMPLATE.md",
    "pull_request_template.md",
    "PULL_REQUEST_TEMPLATE.md",
    "docs/pull_request_template.md",
    "docs/PULL_REQUEST_TEMPLATE.md",
)
TEMPLATE_BYTES = 16_000
_CONVENTIONAL = re.compile(r"^[a-z]+(\([^)\n]{1,40}\))?!?: \S")
_FEWEST, _SHARE = 5, 0.6  # of the newest commits' subjects, so many have to be in a form to be its
_BY_A_MACHINE = (
    "An AI agent wrote this change for {issue}, asked for by @{by}. Nobody has reviewed it yet: please read it like a "
    "stranger's work."
)
_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HEADING = re.compile(r"^#{1,4}\s+(.+?)\s*#*$")

#: Words in a template's heading, and which part of ours belongs below it.
_BELONGS: Mapping[str, str] = MappingProxyType(
    {
        "issue": "issue",
        "ticket": "issue",
        "related": "issue",
        "fixes": "issue",
        "test": "evidence",
        "verif": "evidence",
        "what": "what",
        "why": "what",
        "summary": "what",
        "description": "what",
        "motivation": "what",
        "change": "files",
    }
)


def title(issue_title: str, issue_number: int, subjects: Sequence[str] = ()) -> str:
    """`subjects`: of the base branch's newest commits; where most begin as `fix: `, so does this."""
    text = " ".join(issue_title.split()) or "Fix"
    usual = sum(bool(_CONVENTIONAL.match(subject)) for subject in subjects)
    if len(subjects) >= _FEWEST and usual >= _SHARE * len(subjects) and not _CONVENTIONAL.match(text):
        text = f"fix: {text[:1].lower()}{text[1:]}"
    return f"{text[:180]} (#{issue_number})"


def body(
    *,
    run_id: UUID,
    issue_number: int,
    requested_by: str,
    said: str,
    verdict: Verdict,
    evidence: Sequence[Evidence],
    verified_on: str,
    patch: Patch,
    footer: str,
    tries: str = "",
    template: str | None = None,
    no_drafts: bool = False,
) -> str:
    """`said`: the agent's last message; `tries`: which of several this is. `template`: the repository's own, from the
    base commit."""
    parts = summary(said)
    closes = "Fixes" if verdict.outcome is Outcome.FIXED else "Refs"
    ours = {
        "issue": f"{closes} #{issue_number}",
        "what": _what(parts, said),
        "files": _files(patch, parts),
        "evidence": "\n\n".join(
            filter(None, [inline(verdict.reason, 2000), verified_on, tries, texts.evidence_table(evidence)])
        ),
    }
    begin = [
        texts.run_marker(run_id),
        *(["**This is a draft**: this repository's plan has no draft pull requests."] if no_drafts else []),
        _BY_A_MACHINE.format(issue=ours["issue"], by=requested_by),
    ]
    headings = {
        "what": "### What was wrong, and what was done (the model's own words)",
        "evidence": f"### Evidence: {verdict.outcome.value}",
        "files": "### Files",
    }
    rest = [*texts.worth_a_look(patch), *_uncertain(parts), footer]
    filled = None if template is None else _filled(template, ours)
    if filled is None:
        shown = [f"{headings[name]}\n\n{ours[name]}" for name in ("what", "evidence", "files")]
        return "\n\n".join([*begin, *shown, *rest])[:LIMIT]
    text, used = filled
    left = [f"{headings[name]}\n\n{ours[name]}" for name in ("what", "evidence", "files") if name not in used]
    return "\n\n".join([*begin, text, *left, *rest])[:LIMIT]


def _what(parts: Summary, said: str) -> str:
    if not parts.in_parts:
        return fenced(said[:6000] or "(it left no summary)")
    told = [("What was wrong", parts.wrong), ("What it ran", parts.ran), ("", parts.rest)]
    shown = [f"**{name}**\n\n{fenced(text[:4000])}" if name else fenced(text[:2000]) for name, text in told if text]
    return "\n\n".join(shown)


def _files(patch: Patch, parts: Summary) -> str:
    """Source first, then tests apart, each with what the agent says of it."""
    sources = [file for file in patch.files if not is_test_path(file.path)]
    tests = [file for file in patch.files if is_test_path(file.path)]
    shown = [_listed("Source", sources, parts), _listed("Tests", tests, parts)]
    return "\n\n".join(filter(None, shown)) or "None."


def _listed(name: str, files: Sequence[FileChange], parts: Summary) -> str:
    lines = [f"- {inline(file.path, 200)} (+{file.added} -{file.removed}){_said_of(file, parts)}" for file in files]
    return f"**{name}**\n" + "\n".join(lines) if lines else ""


def _said_of(file: FileChange, parts: Summary) -> str:
    return f": {inline(parts.files[file.path])}" if file.path in parts.files else ""


def _uncertain(parts: Summary) -> list[str]:
    if not parts.uncertain:
        return []
    return [f"### Not verified, by the model's own words\n\n{fenced(parts.uncertain[:3000])}"]


def _filled(template: str, ours: Mapping[str, str]) -> tuple[str, frozenset[str]] | None:
    """The template with our parts below the headings that they belong to, and which these are; None where it has no
    heading. What is left of it is for people: boxes stay unticked."""
    lines = _HIDDEN.sub("", template).replace("\r\n", "\n").split("\n")
    out: list[str] = []
    used: set[str] = set()
    headings = 0
    for line in lines:
        out.append(line.rstrip())
        heading = _HEADING.match(line.strip())
        if heading is None:
            continue
        headings += 1
        name = _belongs(heading[1], used)
        if name is not None:
            used.add(name)
            out += ["", ours[name], ""]
    if not headings:
        return None
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip(), frozenset(used)


def _belongs(heading: str, used: set[str]) -> str | None:
    words = heading.casefold()
    for word, name in _BELONGS.items():
        if word in words and name not in used:
            return name
    return None
