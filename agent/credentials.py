"""Tokens and keys in what a change adds, by the shapes that their issuers published. Pure.

A short list of shapes that are no accident, not a search for anything that looks random: a patch is refused for these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SHAPES = re.compile(
    r"""
      (?P<AWS_access_key>\b(AKIA|ASIA)[A-Z0-9]{16}\b)
    | (?P<GitHub_token>\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})\b)
    | (?P<GitLab_token>\bglpat-[A-Za-z0-9_-]{20,})
    | (?P<Slack_token>\bxox[abeoprs]-[A-Za-z0-9-]{20,})
    | (?P<Stripe_key>\b[rs]k_live_[A-Za-z0-9]{16,}\b)
    | (?P<Google_key>\bAIza[A-Za-z0-9_-]{35}\b)
    | (?P<PyPI_token>\bpypi-AgE[A-Za-z0-9_-]{50,})
    | (?P<npm_token>\bnpm_[A-Za-z0-9]{36}\b)
    | (?P<Hugging_Face_token>\bhf_[A-Za-z0-9]{34,}\b)
    | (?P<API_key>\bsk-(ant-|proj-)[A-Za-z0-9_-]{40,})
    | (?P<SendGrid_key>\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b)
    | (?P<private_key>-----BEGIN[ ]([A-Z]+[ ])*PRIVATE[ ]KEY([ ]BLOCK)?-----[\s"'+\\n]*[A-Za-z0-9+/=]{40,})
    """,
    re.VERBOSE,
)
_FEWEST = 10  # different characters: `ghp_xxxx…` is none


def added(section: str) -> Iterator[str]:
    """What each secret is that one file's part of a diff adds, and does not only move within the file."""
    lines = section.split("\n")
    plus = "\n".join(line[1:] for line in lines if line.startswith("+") and not line.startswith("+++ "))
    minus = "\n".join(line[1:] for line in lines if line.startswith("-") and not line.startswith("--- "))
    for match in _SHAPES.finditer(plus):
        found = match.group()
        if found in minus or found.endswith("EXAMPLE") or len(set(found)) < _FEWEST:
            continue
        yield (match.lastgroup or "").replace("_", " ")
