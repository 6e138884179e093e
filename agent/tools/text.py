"""Text between a workspace and a model: paths kept inside, bytes decoded, long output cut in the middle."""

from __future__ import annotations

import posixpath
import re

from agent.errors import ToolFailure

WORKSPACE = "/workspace"
_UNSAFE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")


def inside(path: str, *, writing: bool = False) -> str:
    """`path` relative to the workspace (`.` for itself). Only by its name: what a symlink in the workspace points
    to is the sandbox's business."""
    if not path.strip() or "\0" in path:
        raise ToolFailure(f"the path is empty or holds a NUL character; give a file path below {WORKSPACE}")
    absolute = posixpath.normpath(posixpath.join(WORKSPACE, path))
    if absolute == WORKSPACE:
        return "."
    if not absolute.startswith(f"{WORKSPACE}/"):
        raise ToolFailure(f"{path} is outside the workspace; only paths below {WORKSPACE} can be used")
    relative = absolute[len(WORKSPACE) + 1 :]
    if writing and relative.split("/")[0] == ".git":
        raise ToolFailure(f"{path} belongs to git itself and is never part of a change; edit the repository's files")
    return relative


def shown(relative: str) -> str:
    """A workspace path as it is shown to the model."""
    return WORKSPACE if relative == "." else f"{WORKSPACE}/{relative}"


def is_binary(data: bytes) -> bool:
    return b"\0" in data[:8192]


def clean(text: str) -> str:
    """`text` without what a message can't carry: lone surrogates and control characters (those of
    layout stay)."""
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n"))


def elide(text: str, limit: int, *, already: int = 0) -> str:
    """`text` in at most about `limit` bytes: its head and its tail, cut at line ends where there are any near, and
    between them a line that names the bytes left out (`already` of them were left out before)."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text
    head, tail = data[: limit // 2], data[len(data) - limit // 2 :]
    if (cut := head.rfind(b"\n")) > len(head) // 2:
        head = head[: cut + 1]
    if 0 <= (cut := tail.find(b"\n")) < len(tail) // 2:
        tail = tail[cut + 1 :]
    gone = len(data) - len(head) - len(tail) + already
    opening = head.decode(errors="ignore").rstrip("\n")
    return f"{opening}\n[... {gone} bytes left out ...]\n{tail.decode(errors='ignore')}"
