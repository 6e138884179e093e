"""What SNAPSHOT printed: a tree and its pack, or why the workspace could not be saved."""

from __future__ import annotations

from agent.errors import NotSaved
from agent.protocols import ExecStatus
from worker.adapters.sandbox.capture import readable
from worker.adapters.sandbox.command import PRELUDE_FAILED
from worker.adapters.sandbox.process import Ended
from worker.errors import BadPatch, SandboxUnavailable

_NAME_CHARACTERS = 120


def parse(ended: Ended, id_length: int) -> tuple[str, bytes]:
    """The tree's id (its shape is checked, nothing more) and the pack. NotSaved for what git could not take: only the
    workspace differs from one snapshot to the next. BadPatch for an answer that is none."""
    if ended.returncode == PRELUDE_FAILED:
        raise SandboxUnavailable("the limits of a snapshot can't be set")
    if ended.status is ExecStatus.OUTPUT_LIMIT or ended.stdout.elided:
        raise NotSaved("they are larger than a snapshot may be")
    if ended.status is ExecStatus.TIMEOUT:
        raise NotSaved(f"reading them took longer than {ended.seconds:.0f} s")
    said = ended.stderr.captured().text
    if "No space left" in said:  # also where git left out one file and went on: the tree would lack it
        raise NotSaved("reading them takes more room than there is for a snapshot")
    if ended.status is not ExecStatus.EXIT or ended.returncode != 0:
        raise NotSaved(f"git could not read them ({ended.status} {ended.returncode})")
    data = ended.stdout.whole or b""
    head, _, pack = data.partition(b"\n")
    tree = head.decode("ascii", "replace")
    if len(tree) != id_length or not set(tree) <= set("0123456789abcdef"):
        raise BadPatch("the workspace's snapshot has no tree id")
    return tree, pack


def described(largest: Ended) -> str:
    """What LARGEST printed, as a sentence; empty when it could not tell."""
    sizes = []
    for line in (largest.stdout.whole or b"").split(b"\0"):
        size, _, name = line.partition(b"\t")
        if size.isdigit():
            sizes.append((int(size[:18]), readable(name).replace("\n", "\ufffd")[:_NAME_CHARACTERS]))
    if len(sizes) < 2 or largest.returncode != 0:
        return ""
    (count, _), (total, _), *files = sizes
    named = ", ".join(f"{name} ({_mebibytes(size)})" for size, name in files)
    return f"New and changed files ({count}) hold {_mebibytes(total)}; the largest: {named}."


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
