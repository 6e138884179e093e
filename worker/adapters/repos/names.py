"""Which names may reach a git command line or a path: anything else is refused before git sees it."""

from __future__ import annotations

import re

from worker.errors import RepositoryRefused

_OBJECT_ID = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99}\Z")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")
# What git check-ref-format refuses, and in addition whatever looks like an option.
_BAD_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\A[-/.]|/\.|/-|\.lock(?:/|\Z)|[./]\Z|\A@\Z|\A\Z")


def is_object_id(text: str) -> bool:
    return _OBJECT_ID.match(text) is not None


def object_id(text: str) -> str:
    """`text` if it is a full object id; RepositoryRefused otherwise."""
    if not is_object_id(text):
        raise RepositoryRefused(f"not a full object id: {text[:80]!r}")
    return text


def branch_ref(branch: str) -> str:
    """`refs/heads/<branch>`; RepositoryRefused when git would not take it as a branch's name."""
    if len(branch) > 200 or _BAD_BRANCH.search(branch):
        raise RepositoryRefused(f"not a branch name: {branch[:80]!r}")
    return f"refs/heads/{branch}"


def repository_name(repository: str) -> str:
    """`owner/name` fit for a path below ours."""
    if not _REPOSITORY.match(repository) or repository.split("/")[1] in {".", ".."}:
        raise RepositoryRefused(f"not a repository name (owner/name): {repository[:80]!r}")
    return repository


def run_name(run_id: str) -> str:
    if not _RUN.match(run_id):
        raise RepositoryRefused(f"not a run id: {run_id[:80]!r}")
    return run_id
