"""Columns for people."""

from __future__ import annotations

from collections.abc import Sequence

from worker.terminal import visible


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int | None = None) -> list[str]:
    """The heading and the rows, each column as wide as its widest cell; the first `left` columns (None: all) begin at
    the left, the others, figures, end at the right."""
    head, *rows = [list(map(visible, row)) for row in [head, *rows]]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    border = len(head) if left is None else left
    return [
        "  ".join(
            cell.ljust(width) if i < border else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
