"""The calls that both harnesses make, in this order, on these files; and why they are answered differently."""

from __future__ import annotations

from typing import Any

FILES = {
    "shop.py": "def total(cart):\n    return sum(cart, 3)\n\n\ndef count(cart):\n    return len(cart)\n",
    "dos.py": "a = 1\r\nb = 2\r\n",
    "pkg/cart.py": "# cart\nITEMS = []\n",
    "long.txt": "".join(f"line {n} of many, to make this file too long to be shown in one go\n" for n in range(1500)),
    "empty.txt": "",
    "no_end.txt": "no line end",
}


def block(search: str, replace: str) -> str:
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE"


ITEM = {"id": "1", "content": "look", "status": "pending", "priority": "high"}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "a file": ("read_file", {"path": "shop.py"}),
    "a part of it": ("read_file", {"path": "shop.py", "offset": 4, "limit": 1}),
    "without a line end": ("read_file", {"path": "no_end.txt"}),
    "past its end": ("read_file", {"path": "shop.py", "offset": 99}),
    "a long one": ("read_file", {"path": "long.txt"}),
    "an empty one": ("read_file", {"path": "empty.txt"}),
    "CRLF": ("read_file", {"path": "dos.py"}),
    "a missing one": ("read_file", {"path": "nowhere.py"}),
    "a directory": ("read_file", {"path": "pkg"}),
    "a wrong parameter": ("read_file", {"path": "shop.py", "offset": "x"}),
    "a match": ("grep", {"pattern": "def total"}),
    "matches in a folder": ("grep", {"pattern": "ITEMS", "path": "pkg"}),
    "no match": ("grep", {"pattern": "nothing like this"}),
    "too many": ("grep", {"pattern": "line", "path": "long.txt", "max_matches": 2}),
    "upper and lower case": ("grep", {"pattern": "DEF total"}),
    "a broken pattern": ("grep", {"pattern": "total("}),
    "a missing folder": ("grep", {"pattern": "x", "path": "nowhere"}),
    "a new file": ("write_file", {"path": "made.py", "content": "x = 1\n"}),
    "one that is there": ("write_file", {"path": "made.py", "content": "x = 2\n"}),
    "over it": ("write_file", {"path": "made.py", "content": "x = 2\n", "overwrite": True}),
    "one block": ("search_replace", {"file_path": "shop.py", "content": block("sum(cart, 3)", "sum(cart)")}),
    "two blocks": (
        "search_replace",
        {
            "file_path": "shop.py",
            "content": f"{block('def count', 'def number')}\n{block('len(cart)', 'len(list(cart))')}",
        },
    ),
    "in a fence": ("search_replace", {"file_path": "made.py", "content": f"```\n{block('x = 2', 'x = 3')}\n```"}),
    "many places": ("search_replace", {"file_path": "shop.py", "content": block("return", "return ")}),
    "a miss": ("search_replace", {"file_path": "shop.py", "content": block("def totl(cart):", "x")}),
    "no block": ("search_replace", {"file_path": "shop.py", "content": "x = 1"}),
    "of a missing file": ("search_replace", {"file_path": "nowhere.py", "content": block("a", "b")}),
    "a command": ("bash", {"command": "echo hi; echo oh >&2"}),
    "a failing one": ("bash", {"command": "echo so; echo why >&2; exit 3"}),
    "one that takes too long": ("bash", {"command": "sleep 5", "timeout": 1}),
    "long output": ("bash", {"command": "cat long.txt"}),
    "no plan yet": ("todo", {"action": "read"}),
    "a plan": ("todo", {"action": "write", "todos": [ITEM]}),
    "read again": ("todo", {"action": "read"}),
    "two of one id": ("todo", {"action": "write", "todos": [ITEM, ITEM]}),
    "a plan of none": ("todo", {"action": "write"}),
}

# (tool, what differs) to why. What differs: a field of the result, `error` for its words, `ok` for whether it is one,
# `parameters` for what is offered. What differs and is not here fails the check, and so does what no call shows.
_WORDS = "the words say what to do next, or name the line that is most like it"
_ECHO = "what the model has just written stays once in its window, not twice"
REASONS: dict[tuple[str, str], str] = {
    ("read_file", "offset"): "as in the releases that Devstral 2 shipped with first; it repeats the argument",
    ("read_file", "note"): "how to go on, CRLF, and an empty file are said, which a cut content does not tell",
    ("read_file", "ok"): "an offset past the end is a mistake, and the number of lines mends it",
    ("read_file", "error"): _WORDS,
    ("grep", "matches"): "paths without ./ can be copied into the other tools as they are",
    ("grep", "error"): _WORDS,
    ("write_file", "content"): _ECHO,
    ("write_file", "error"): _WORDS,
    ("search_replace", "content"): _ECHO,
    ("search_replace", "lines_changed"): "lines that differ; there, how many more lines the file has",
    ("search_replace", "warnings"): "words for a reader, not a list as Python writes it",
    ("search_replace", "error"): _WORDS,
    ("bash", "command"): _ECHO,
    ("bash", "stdout"): "of long output the tail is kept as well: it holds the outcome of tests",
    ("bash", "error"): "return code, stderr and stdout in fixed places, and why a command was stopped",
    ("todo", "todos"): "JSON as the model writes it, not objects as Python shows them",
    ("todo", "error"): _WORDS,
    ("todo", "ok"): "a write without a list would silently drop the plan",
}
