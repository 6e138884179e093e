"""What an issue points to: its images and links, for a model that can open none of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MOST = 12  # of each kind
_LONGEST = 300  # characters of an address
_ADDRESS = r"https?://[^\s<>\"'()\[\]`]{1,2000}"
_IMAGE = re.compile(
    rf"!\[[^\]\n]{{0,500}}\]\(\s*({_ADDRESS})|<img\b[^>]{{0,300}}?\bsrc\s*=\s*[\"']?({_ADDRESS})", re.IGNORECASE
)
_LINK = re.compile(_ADDRESS)


def addresses(text: str) -> tuple[list[str], list[str]]:
    """(images, links) in their order, each once; an address that is shown as an image is no link."""
    images = _distinct(first or second for first, second in _IMAGE.findall(text))
    links = [link for link in _distinct(match.rstrip(".,;:!?") for match in _LINK.findall(text)) if link not in images]
    return images, links


def listed(text: str) -> list[str]:
    """A line for each, `image: ADDRESS` or `link: ADDRESS`, and one for those beyond the first dozen of a kind."""
    lines = []
    for kind, found in zip(("image", "link"), addresses(text), strict=True):
        lines += [f"{kind}: {one[:_LONGEST]}" for one in found[:_MOST]]
        if len(found) > _MOST:
            lines.append(f"and {len(found) - _MOST} more {kind}s")
    return lines


def _distinct(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))
