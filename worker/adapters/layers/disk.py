"""Layers below one folder, by key: made aside, kept by a rename, held by file locks, the least used removed first."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import Mount
from worker.adapters.layers.content import TARGET, freeze, meaning, remove, size
from worker.adapters.layers.failures import Failures
from worker.adapters.layers.gauge import Gauge
from worker.errors import Permanent, SandboxUnavailable
from worker.stages.ports import FailedSetUp, Layer

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FORM = "1"  # of what a layer looks like inside; another one makes every key new


class LayerTooLarge(Permanent):
    """A set-up made more than a layer may hold."""


@dataclass
class Draft:
    """The `LayerDraft` port."""

    folder: Path
    home: Path
    largest: int
    failures: Failures
    gauge: Gauge
    kept: bool = False

    @property
    def mount(self) -> Mount:
        return Mount(source=self.folder, target=TARGET, writable=True)

    @property
    def suspect(self) -> bool:
        return self.gauge.exceeded()

    @property
    def too_large(self) -> bool:
        return size(self.folder) > self.largest

    def keep(self) -> None:
        freeze(self.folder)
        used = size(self.folder)
        if used > self.largest:
            raise LayerTooLarge(f"the set-up made {used >> 20} MiB; a layer may hold {self.largest >> 20} MiB")
        (self.folder.parent / "size").write_text(str(used))
        self.folder.parent.chmod(0o755)
        if not self.home.exists():  # somebody made the same one just before us: theirs stays
            self.folder.parent.rename(self.home)
            self.kept = True

    def fail(self, failed: FailedSetUp) -> None:
        self.failures.record(self.home.name, failed)


class DiskLayers:
    """The `Layers` port below `root`: `layers/`, `drafts/`, `failures/`, `locks/`. Nothing is made until first use.

    One layer holds at most `largest` bytes, all together at most `room`: beyond it those longest unused go, except
    the ones in use; none is made with less than `reserve` bytes left on the disk. One that failed is not tried again
    for `retry_seconds`. `machine` is what else of this one decides how a layer turns out, such as tools that it was
    given.
    """

    def __init__(
        self,
        root: Path,
        *,
        largest: int = 8 << 30,
        room: int = 40 << 30,
        reserve: int = 1 << 30,
        retry_seconds: float = 3600,
        machine: Sequence[str] = (),
    ) -> None:
        self._root = root.absolute()
        self._failures = Failures(self._root / "failures", retry_seconds)
        self._largest = largest
        self._room = room
        self._reserve = reserve
        self._machine = tuple(machine)

    def key(self, parts: Sequence[str]) -> str:
        """The key of what is determined by `parts`, on a machine like this one."""
        release = Path("/etc/os-release")
        machine = [
            _FORM, platform.machine(), sys.version, sys.base_prefix,
            release.read_text(encoding="utf-8", errors="replace") if release.exists() else "", *self._machine,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps([machine, list(parts)]).encode()).hexdigest()

    @contextmanager
    def use(self, key: str) -> Iterator[Layer | None]:
        home = self._home(key)
        with ExitStack() as stack:
            layer = None
            if (home / "tree").is_dir():
                stack.enter_context(self._locked(f"{key}.use", fcntl.LOCK_SH))
                if (home / "tree").is_dir():
                    with suppress(OSError):
                        os.utime(home)  # used now
                    layer = meaning(home / "tree")
            yield layer

    def failed(self, key: str) -> FailedSetUp | None:
        return self._failures.find(self._home(key).name)

    def forget_failures(self) -> int:
        return self._failures.forget()

    @contextmanager
    def draft(self, key: str) -> Iterator[Draft | None]:
        """SandboxUnavailable when the disk refuses."""
        home = self._home(key)
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked(f"{key}.make", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            try:
                self._sweep_drafts(key)
                for name in ("drafts", "layers"):
                    (self._root / name).mkdir(parents=True, exist_ok=True)
                    (self._root / name).chmod(0o711)
                place = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=self._root / "drafts"))
                place.chmod(0o711)
                folder = place / "tree"
                folder.mkdir(mode=0o755)
                folder.chmod(0o755)
                gauge = Gauge(folder, self._largest, self._reserve)
            except OSError as e:
                raise SandboxUnavailable(f"a layer could not be begun: {e}") from e
            draft = Draft(folder, home, self._largest, self._failures, gauge)
            try:
                yield draft
            finally:
                if not draft.kept:
                    remove(place)
        if draft.kept:
            self._failures.forget(key)
            self._failures.sweep()
            self.prune()

    def prune(self) -> list[str]:
        """Remove layers, longest unused first, until the rest fits the room. Returns the keys that went."""
        layers = [path for path in (self._root / "layers").iterdir() if _KEY.match(path.name)]
        layers.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        gone, total = [], 0
        for number, home in enumerate(layers):
            total += _recorded(home)
            if total <= self._room or number == 0:
                continue
            with suppress(BlockingIOError), self._locked(f"{home.name}.use", fcntl.LOCK_EX | fcntl.LOCK_NB):
                aside = self._root / "drafts" / f"{home.name}-gone-{time.time_ns()}"
                home.rename(aside)  # at once out of sight, whatever happens while it is removed
                total -= _recorded(aside)
                remove(aside)
                gone.append(home.name)
        return gone

    def _sweep_drafts(self, ours: str) -> None:
        """Remove what a maker that died left: whoever holds its lock can tell, and we hold that of `ours`."""
        folder = self._root / "drafts"
        for place in folder.iterdir() if folder.is_dir() else ():
            key = place.name[:64]
            if not _KEY.match(key):
                continue
            if key == ours or "-gone-" in place.name:
                remove(place)
                continue
            with suppress(BlockingIOError), self._locked(f"{key}.make", fcntl.LOCK_EX | fcntl.LOCK_NB):
                remove(place)

    def _home(self, key: str) -> Path:
        if not _KEY.match(key):
            raise Permanent(f"not a layer's key: {key[:80]!r}")
        return self._root / "layers" / key

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        """BlockingIOError when `how` doesn't wait and somebody else holds it."""
        folder = self._root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)


def _recorded(home: Path) -> int:
    try:
        return int((home / "size").read_text())
    except (OSError, ValueError):
        return 0
