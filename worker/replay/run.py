"""One replay: the base is compared first, then every step is done again, and at last the patch is compared."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.outcome import Patch
from agent.protocols import Sandbox, SandboxLimits, Session
from agent.recording import Moment, Recording
from worker.errors import BadPatch
from worker.replay.actions import Actor
from worker.replay.differences import Difference, Kind, Known, checked_out, compare
from worker.replay.done import Done, Stopped
from worker.replay.files import Files
from worker.replay.ipython import helper
from worker.stages.layer import spec
from worker.stages.ports import Layer, Repositories

_INDEX = re.compile(
    r"^diff --git a/(?P<path>.+?) b/.+?$\n(?:(?!diff --git).*\n)*?index (?P<old>[0-9a-f]+)\.\.(?P<new>[0-9a-f]+)",
    re.MULTILINE,
)
_DIFFERENT_TOOLS = {
    "open", "goto", "scroll_up", "scroll_down", "read_file", "read", "find_file", "search_dir", "search_file",
}  # fmt: skip


@dataclass(frozen=True)
class Blob:
    """A file of the recorded patch. `base` and `after`: whether our base's file, and the one after the replay, are the
    very ones that it names (None: it names none)."""

    path: str
    base: bool | None
    after: bool | None = None


@dataclass(frozen=True)
class StepReplay:
    """`how`: same, differs, nothing to compare, or not replayed."""

    index: int
    tool: str
    how: str
    differences: tuple[Difference, ...] = ()
    note: str = ""
    replayed: str | None = None


@dataclass
class Replay:
    """`patch` says how the change that came of it compares with the recorded one; `stopped` why it went no further."""

    steps: list[StepReplay] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    patch: str = "nothing to compare"
    patch_ours: bool = False
    stopped: str = ""
    diff: str = ""

    @property
    def ours(self) -> int:
        """Differences that nothing but us explains."""
        steps = sum(d.kind is Kind.OURS for step in self.steps for d in step.differences)
        return steps + self.patch_ours

    def kinds(self) -> dict[str, int]:
        """Steps with a difference of each kind."""
        return {kind.value: sum(any(d.kind is kind for d in s.differences) for s in self.steps) for kind in Kind}


@dataclass(frozen=True, kw_only=True)
class Replayer:
    sandbox: Sandbox
    repositories: Repositories
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def replay(self, recording: Recording, git_dir: Path, commit: str, layer: Layer | None = None) -> Replay:
        """Do every step of it again on `commit`. The recording's commands run in the sandbox and nowhere else."""
        done = Replay(blobs=self._bases(recording, git_dir, commit))
        session = self.sandbox.open(spec(git_dir, commit, self.limits, layer))
        try:
            tree = self._steps(recording, session, git_dir, commit, done)
        finally:
            session.close()
        self._conclude(recording, git_dir, commit, tree, done)
        return done

    def _steps(self, recording: Recording, session: Session, git_dir: Path, commit: str, done: Replay) -> str:
        actor = Actor(recording, Files(session, recording.root))
        files = self.repositories.list_files(git_dir, commit)
        modules = frozenset(
            re.sub(r"\.py$", "", p.removeprefix("src/").split("/")[0]) for p in files if p.endswith(".py")
        )
        changed: frozenset[str] = frozenset()
        elsewhere: str | None = None
        tree = session.snapshot()
        for moment in recording.steps:
            try:
                result = actor.do(moment)
            except Stopped as why:
                done.stopped = f"step {moment.index + 1}: {why}"
                done.steps.append(StepReplay(moment.index, moment.act.tool, "not replayed", note=str(why)))
                break
            if (commit_then := checked_out(_command(moment))) is not None:
                elsewhere = None if (recording.base_commit or "-").startswith(commit_then) else commit_then
            known = Known(
                command=" ".join(filter(None, (_command(moment), result.shows))),
                changed=changed,
                modules=modules,
                elsewhere=elsewhere,
                base_lines=self._lines(git_dir, commit, result.shows, done.blobs),
                exit_codes=(moment.observed.exit_code if moment.observed else None, result.exit_code),
            )
            done.steps.append(judged(moment, result, known))
            tree = session.snapshot()
            changed = frozenset(c.path for c in self.repositories.patch(git_dir, commit, tree).files)
        return tree

    def _bases(self, recording: Recording, git_dir: Path, commit: str) -> list[Blob]:
        """The recorded patch's own word on the files it began from, against ours: the cheapest proof of a base."""
        return [
            Blob(path, None if not old.strip("0") else self._is(git_dir, commit, path, old))
            for path, old, _ in indexed(recording.patch or "")
        ]

    def _conclude(self, recording: Recording, git_dir: Path, commit: str, tree: str, done: Replay) -> None:
        patch = self.repositories.patch(git_dir, commit, tree)
        done.diff = patch.diff
        if recording.patch is None:
            return
        entries = list(indexed(recording.patch))
        done.blobs = [
            Blob(blob.path, blob.base, self._is(git_dir, tree, blob.path, new) if new.strip("0") else None)
            for blob, (_, _, new) in zip(done.blobs, entries, strict=True)
        ]
        try:
            expected = self.repositories.apply(git_dir, commit, recording.patch)
        except BadPatch as error:
            done.patch, done.patch_ours = f"the recorded patch does not apply to this base: {error}"[:200], False
            return
        wrong = self._unlike(git_dir, commit, expected, tree, patch)
        done.patch_ours = bool(wrong) and not done.stopped
        done.patch = "differs in " + ", ".join(wrong) if wrong else "the same change"
        if done.stopped:
            done.patch = f"not reached ({done.stopped})"

    def _unlike(self, git_dir: Path, commit: str, expected: str, tree: str, patch: Patch) -> list[str]:
        """The files of the recorded patch that are otherwise after the replay. What else the replay left (scripts that
        the recording did not submit) is no part of it."""
        wanted = self.repositories.patch(git_dir, commit, expected)
        paths = [change.path for change in wanted.files]
        here = self.repositories.overlay(git_dir, commit, tree, [c.path for c in patch.files if c.path in paths])
        return [change.path for change in self.repositories.patch(git_dir, expected, here).files]

    def _lines(self, git_dir: Path, commit: str, path: str | None, blobs: list[Blob]) -> frozenset[str]:
        """The lines of a shown file in the base, where the recorded patch says that it is another file."""
        if path is None or not any(blob.path == path and blob.base is False for blob in blobs):
            return frozenset()
        data = self.repositories.read_file(git_dir, commit, path, max_bytes=16 << 20) or b""
        return frozenset(line.rstrip() for line in data.decode("utf-8", "replace").split("\n"))

    def _is(self, git_dir: Path, tree: str, path: str, abbreviated: str) -> bool:
        data = self.repositories.read_file(git_dir, tree, path, max_bytes=16 << 20)
        return data is not None and blob_id(data).startswith(abbreviated)


def judged(moment: Moment, result: Done, known: Known) -> StepReplay:
    """The verdict on one step."""
    tool = moment.act.tool
    seen = moment.observed
    if result.unsupported:
        why = Difference(Kind.OURS, result.unsupported)
        return StepReplay(moment.index, tool, "not replayed", (why,), result.unsupported)
    found: list[Difference] = []
    if result.failed:
        found.append(Difference(Kind.OURS, f"our limit ended it: {result.failed}"))
    if seen is not None and seen.refused != result.refused:
        words = ("was refused then and is not now", "was not refused then and is now")
        found.append(Difference(Kind.OURS, words[result.refused]))
    both_refused = seen is not None and seen.refused and result.refused
    if seen is None or result.text is None or both_refused:
        how = "differs" if found else "same" if both_refused else "nothing to compare"
        return StepReplay(moment.index, tool, how, tuple(found), result.note)
    found += compare(result.compared if result.compared is not None else seen.text, result.text, known)
    if result.moved and not any(d.why == result.moved for d in found):
        found.append(Difference(Kind.ENVIRONMENT, result.moved))
    return StepReplay(moment.index, tool, "differs" if found else "same", tuple(found), result.note, result.text)


def indexed(patch: str) -> list[tuple[str, str, str]]:
    """(path, id before, id after) of each file that a diff names ids for."""
    return [(match["path"], match["old"], match["new"]) for match in _INDEX.finditer(patch)]


def blob_id(data: bytes) -> str:
    """git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def summary(replay: Replay) -> dict[str, Any]:
    """JSON-ready."""
    first = next((step.index for step in replay.steps if step.differences), None)
    return {
        "steps": len(replay.steps),
        "same": sum(step.how == "same" for step in replay.steps),
        "not_compared": sum(step.how == "nothing to compare" for step in replay.steps),
        "differences": replay.kinds(),
        "ours": replay.ours,
        "first_difference": first,
        "base": [{"path": blob.path, "base_exact": blob.base, "result_exact": blob.after} for blob in replay.blobs],
        "patch": replay.patch,
        "stopped": replay.stopped or None,
        "details": [
            {
                "step": step.index,
                "tool": step.tool,
                "how": step.how,
                "note": step.note,
                "differences": [{"kind": d.kind.value, "why": d.why} for d in step.differences],
            }
            for step in replay.steps
            if step.differences or step.note
        ],
    }


def _command(moment: Moment) -> str:
    given = moment.act.arguments
    if moment.act.tool in _DIFFERENT_TOOLS:
        return f"{moment.act.tool} {given.get('path', '')}"
    if moment.act.tool == "ipython":
        code = str(given.get("code", ""))
        return code if helper(code) else f"python3 -c {code}"
    return str(given.get("command") or given.get("code") or moment.act.tool)
