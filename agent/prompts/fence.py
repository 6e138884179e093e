"""Text of strangers, made safe to show to a model: what people can't see is removed, and it can't end its own fence."""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 1 << 17  # bytes looked at; GitHub's own limit is half of it

# Code is shown to people as it is, comments in it too, so code spans and fenced blocks are matched first and kept.
# The possessive quantifiers keep hostile text from making this quadratic.
_MARKDOWN = re.compile(
    r"""
    (?P<code>
        ^[ ]{0,3}(?P<fence>`{3,}+(?=[^`\n]*+\n)|~{3,}+)[^\n]*+\n (?:.*?\n)?? (?:[ ]{0,3}(?P=fence)[`~]*+[ \t]*+$|\Z)
      | (?<!`)(?P<ticks>`++) (?:(?!\n[ \t]*\n).)+? (?<!`)(?P=ticks)(?!`)
    )
    | <!--.*?(?:-->|\Z)                                   # hidden, also when it never ends
    | ^[ ]{0,3}\[(?://|comment)\]:[^\n]*$                 # the other way to write a comment in Markdown
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_INVISIBLE = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
_INVISIBLE |= {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}  # variation selectors


def visible(text: str) -> str:
    """`text` as people see it on GitHub: without hidden comments, and without characters that show nothing or
    change the order in which others are shown."""
    text = re.sub("\r\n?|[\u2028\u2029\x0b\x0c\x85]", "\n", bounded(text, _LONGEST))
    text = "".join(char for char in text if _is_visible(char))
    return _MARKDOWN.sub(lambda match: match["code"] or "", text).strip()


def tag_for(name: str, text: str) -> str:
    """A tag that `text` doesn't contain, so that nothing in it can close the fence."""
    folded, number = text.casefold(), 1
    while f"{name}_{number}" in folded:
        number += 1
    return f"{name}_{number}"


def bounded(text: str, limit: int) -> str:
    """At most about `limit` bytes: the beginning, the end, and a line between them that names what is left out."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text
    head, tail = data[: limit * 3 // 4], data[len(data) - limit // 4 :]
    left_out = len(data) - len(head) - len(tail)
    return f"{head.decode(errors='ignore')}\n[... {left_out} bytes left out ...]\n{tail.decode(errors='ignore')}"


def _is_visible(char: str) -> bool:
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co"} and ord(char) not in _INVISIBLE
