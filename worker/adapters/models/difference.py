"""Where two texts first differ, told so that a person sees it: line, column, code points, control characters."""

from __future__ import annotations

_BEFORE, _AFTER = 40, 60  # characters of the line shown on either side of the difference


def first_difference(expected: str, actual: str) -> str:
    """Two or three lines naming the first differing line with both versions; empty when the texts are equal."""
    if expected == actual:
        return ""
    at = next(
        (i for i, (left, right) in enumerate(zip(expected, actual, strict=False)) if left != right),
        min(len(expected), len(actual)),
    )
    start = expected.rfind("\n", 0, at) + 1  # both texts are equal up to here
    line, column = expected.count("\n", 0, at) + 1, at - start + 1
    return (
        f"line {line}, column {column}: expected {_character(expected, at)}, got {_character(actual, at)}\n"
        f"  expected: {_window(expected, start, at)}\n"
        f"  got:      {_window(actual, start, at)}"
    )


def _character(text: str, at: int) -> str:
    return f"{text[at]!a} (U+{ord(text[at]):04X})" if at < len(text) else "the end of the text"


def _window(text: str, start: int, at: int) -> str:
    """The line's part around `at` as a Python literal: blanks at its ends and control characters are visible."""
    first, last = max(start, at - _BEFORE), at + _AFTER
    newline = text.find("\n", at, last)
    end = last if newline < 0 else newline + 1
    cut_left, cut_right = "… " if first > start else "", " …" if newline < 0 and last < len(text) else ""
    return f"{cut_left}{text[first:end]!r}{cut_right}"
