"""Numbers in what a model wrote."""

from __future__ import annotations

import re
from decimal import Decimal

# A minus belongs to a number where nothing stands before it that it could be taken from: 5-3 is no -3.
_NUMBER = re.compile(r"(?:(?<![\w).])-)?[0-9]+(?:\.[0-9]+)?")


def numbers(text: str) -> list[Decimal]:
    """In order, commas removed before: 1,200 is one number, and 18.00 equals 18."""
    return [Decimal(found) for found in _NUMBER.findall(text.replace(",", ""))]
