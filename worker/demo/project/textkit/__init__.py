"""Small helpers for plain text."""

from textkit.slugs import slug
from textkit.wrapping import wrap

__all__ = ["slug", "wrap"]
