"""How money is shown to people, everywhere the same."""

from __future__ import annotations

from decimal import Decimal

Amount = Decimal | float


def usd(low: Amount, high: Amount | None = None) -> str:
    """`$0.0103`; a range where it is known only between two amounts, as without a price of cached input."""
    if high is None or f"{low:.4f}" == f"{high:.4f}":
        return f"${low if high is None else high:.4f}"
    return f"${low:.4f} to ${high:.4f}"
