"""Titles as parts of URLs."""

import re


def slug(title: str) -> str:
    """Lower case, words joined by single hyphens, nothing else."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
