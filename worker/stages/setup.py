"""The set-up of a repository: its layer is made once, with the allow-listed network. Runs on a CPU worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

from agent.protocols import ExecResult, ExecStatus, Sandbox, SandboxLimits, SandboxSpec
from worker import logs, wakes
from worker.errors import LeaseLost, Permanent, ShuttingDown, Transient
from worker.heartbeat import Heartbeat
from worker.holding import Work
from worker.runs import setups
from worker.stages import config, setup_plan
from worker.stages.config import RepositoryConfig
from worker.stages.layer import needed
from worker.stages.ports import Blocked, Egress, FailedSetUp, LayerDraft, Layers, Repositories, WayOut
from worker.store import queries
from worker.store.models import Run, RunState
from worker.store.session import Store, after_commit

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
MARGIN_SECONDS = 300.0  # for workspaces and keeping the layer, besides what the set-up itself may take
WATCH_SECONDS = 0.05
KEPT_LOG = 12_000  # characters of a failed set-up's output: its tail, where the error is
SETUP_LIMITS = SandboxLimits(memory_bytes=8 << 30, file_bytes=4 << 30, processes=1024)


Layered = Literal["found", "made", "busy"]


class SetUpFailed(Exception):
    """The repository's set-up, or the wish for one, is broken; for people. `log`: what was blocked and printed.
    `remembered`: it was not tried now."""

    def __init__(self, reason: str, log: str = "", *, remembered: bool = False) -> None:
        super().__init__(reason)
        self.log = log
        self.remembered = remembered


class NetworkDown(Transient):
    """The set-up failed, and a host that it may use did not answer: that may be why."""


class DiskShort(Transient):
    """The set-up was ended for want of disk space, without being too large itself."""


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes layers. One per process."""

    sandbox: Sandbox
    repositories: Repositories
    layers: Layers
    egress: Egress
    limits: SandboxLimits = field(default_factory=lambda: SETUP_LIMITS)

    def ensure(
        self, git_dir: Path, repository: str, commit: str, settings: RepositoryConfig, work: Work | None = None
    ) -> tuple[str | None, Layered]:
        """The layer's key (None: none is needed), and how it comes that it is there; `busy`: somebody else is making
        it now. SetUpFailed when it can't be made, or could not a short while ago; service errors propagate, and so
        does what interrupts `work`."""
        work = work or Work("setup")
        plan = needed(self.repositories, git_dir, commit, settings)
        if plan is None:
            return None, "found"
        if (refusal := self.egress.refusal) is not None:
            raise SetUpFailed(f"the set-up was refused: {refusal}")
        key = self.layers.key([repository.lower(), *plan.parts, self.egress.policy])
        with self.layers.use(key) as layer:
            if layer is not None:
                return key, "found"
        with self.layers.draft(key) as draft:
            if draft is None:
                return key, "busy"
            if (before := self.layers.failed(key)) is not None:  # asked under the maker's lock: not twice at once
                raise SetUpFailed(before.reason, before.log, remembered=True)
            try:
                self._make(draft, plan, git_dir, commit, settings.setup_timeout_seconds, work)
            except SetUpFailed as failed:
                draft.fail(FailedSetUp(reason=str(failed), log=failed.log))
                raise
        return key, "made"

    def _make(
        self, draft: LayerDraft, plan: setup_plan.Plan, git_dir: Path, commit: str, timeout: float, work: Work
    ) -> None:
        started = time.monotonic()
        with self.egress.open() as way:
            result, suspected = self._run(draft, way, plan, git_dir, commit, timeout, work)
            blocked = way.blocked
        work.check()
        log.info(
            "set_up",
            extra={
                "status": result.status.value,
                "returncode": result.returncode,
                "blocked": [f"{b.host}:{b.port}" for b in blocked],
                "seconds": round(time.monotonic() - started, 1),
            },
        )
        told = report(result, blocked)
        if suspected and draft.too_large:
            raise SetUpFailed("the set-up made more than a layer may hold", told)
        if suspected and result.status is ExecStatus.CANCELLED:
            raise DiskShort("the disk was filling up, and not by this set-up alone: it was ended")
        if result.status is not ExecStatus.EXIT or result.returncode != 0:
            if silent := [b for b in blocked if b.allowed]:
                raise NetworkDown(
                    f"the set-up failed ({ending(result, timeout)}){named(tuple(silent), 'no answer from')}"
                )
            raise SetUpFailed(f"the set-up failed ({ending(result, timeout)}){named(blocked)}", told)
        try:
            draft.keep()
        except Permanent as error:
            raise SetUpFailed(str(error), told) from error

    def _run(
        self,
        draft: LayerDraft,
        way: WayOut,
        plan: setup_plan.Plan,
        git_dir: Path,
        commit: str,
        timeout: float,
        work: Work,
    ) -> tuple[ExecResult, bool]:
        inside = draft.mount.target
        env = {
            **way.env,
            "SETUP_DIR": inside,
            "VIRTUAL_ENV": f"{inside}/venv",
            "TMPDIR": f"{inside}/.tmp",
            "XDG_CACHE_HOME": f"{inside}/.cache",
            "NPM_CONFIG_CACHE": f"{inside}/.cache/npm",
            "CARGO_HOME": f"{inside}/cargo",
            "GOPATH": f"{inside}/.cache/gopath",
            "GOMODCACHE": f"{inside}/go",
        }
        session = self.sandbox.open(
            SandboxSpec(
                git_dir=git_dir,
                tree=commit,
                limits=self.limits,
                mounts=(*way.mounts, draft.mount),
                env=env,
                path=(f"{inside}/venv/bin", f"{inside}/bin"),
            )
        )
        try:
            with watched(draft, work.cancel) as suspected:
                argv = way.command(["bash", "-c", plan.script])
                result = session.exec(argv, timeout=timeout, max_output=8 << 20, cancel=work.cancel)
        finally:
            session.close()
        return result, suspected.is_set()


@contextmanager
def watched(draft: LayerDraft, cancel: threading.Event) -> Iterator[threading.Event]:
    """Set, and `cancel` with it, once the draft is suspected of holding too much."""
    suspected, over = threading.Event(), threading.Event()

    def watch() -> None:
        try:
            while not over.wait(WATCH_SECONDS):
                if draft.suspect:
                    break
            else:
                return
        except Exception:  # a set-up that nobody watches is ended
            log.exception("layer_not_watched")
        suspected.set()
        cancel.set()

    thread = threading.Thread(target=watch, name="layer-size", daemon=True)
    thread.start()
    try:
        yield suspected
    finally:
        over.set()
        thread.join()


def ending(result: ExecResult, timeout: float) -> str:
    if result.status is ExecStatus.EXIT:
        return f"exit status {result.returncode}"
    if result.status is ExecStatus.TIMEOUT:
        return f"not done after {timeout:.0f} s"
    return f"ended by {result.status.value}"


def named(blocked: tuple[Blocked, ...], what: str = "blocked:") -> str:
    """The hosts inside a sentence."""
    if not blocked:
        return ""
    shown = ", ".join(f"`{b.host}:{b.port}`" for b in blocked[:5])
    return f"; {what} {shown}{f' and {len(blocked) - 5} more' if len(blocked) > 5 else ''}"


def report(result: ExecResult, blocked: tuple[Blocked, ...]) -> str:
    """What people need to mend it: each blocked destination with its reason, then the output's tail."""
    lines = [f"blocked: {b.host}:{b.port}: {b.reason}" for b in blocked]
    said = "\n".join(text for text in (result.stdout.text.strip(), result.stderr.text.strip()) if text)
    if len(said) > KEPT_LOG:
        said = f"[{len(said) - KEPT_LOG} characters left out]\n{said[-KEPT_LOG:]}"
    return "\n".join([*lines, said]).strip()


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """The task body of `setup`."""

    store: Store
    heartbeat: Heartbeat
    builder: Builder
    repositories: Repositories
    send: Callable[[wakes.Wake], None]

    def __call__(self, run_id: UUID) -> None:
        with self.store.transaction() as session:
            run = setups.waiting(session, run_id)
        if run is None:
            return
        allowed = config.RepositoryConfig.model_validate(run.repository_config).setup_timeout_seconds + MARGIN_SECONDS
        watched = self.heartbeat.watch(
            "setup", run_id=run_id, seconds=allowed, wanted=lambda session: setups.wanted(session, run.repository)
        )
        with logs.bound(run_id=run_id), watched as work:
            try:
                self._set_up(run, work)
            except (LeaseLost, ShuttingDown) as error:
                self._leave(run_id, error)
            except SetUpFailed as failed:
                log.warning("set_up_failed", extra={"why": str(failed)})
                self._conclude(run, failed)
            except (Transient, Permanent) as error:
                self._postpone(run_id, str(error))
            except Exception as error:
                log.exception("set_up_crashed")
                self._postpone(run_id, f"internal error: {type(error).__name__}: {error}")

    def _set_up(self, run: Run, work: Work) -> None:
        git_dir = self.repositories.mirror(run.repository)
        settings = config.RepositoryConfig.model_validate(run.repository_config)
        key, layered = self.builder.ensure(git_dir, run.repository, run.base_commit, settings, work)
        if layered == "busy":
            return  # whoever makes it announces the others; and the sweep asks again
        with self.store.transaction() as session:
            released = setups.release(session, run.id, key)
            others = queries.due_setups(session, setups.HELD, repository=run.repository) if layered == "made" else ()
            if released is not None:
                queued = released.state is RunState.QUEUED
                next_one = wakes.permit(released.profile) if queued else wakes.verify(run.id)
                after_commit(session, lambda: self.send(next_one))
        for other in others:
            self.send(wakes.setup(other))

    def _conclude(self, run: Run, failed: SetUpFailed) -> None:
        """The others of the repository ask now, too: the same set-up is not tried again for them."""
        with self.store.transaction() as session:
            if setups.conclude(session, run.id, reason=str(failed), log=failed.log):
                after_commit(session, lambda: self.send(wakes.deliver(run.id)))
            remembered = failed.remembered
            others = () if remembered else queries.due_setups(session, setups.HELD, repository=run.repository)
        for other in others:
            self.send(wakes.setup(other))

    def _leave(self, run_id: UUID, error: LeaseLost | ShuttingDown) -> None:
        """Nobody waits for it any more, or another worker is to make it: it still waits, and that is no attempt."""
        log.info("set_up_left", extra={"why": str(error)})
        if isinstance(error, ShuttingDown):
            self.send(wakes.setup(run_id))

    def _postpone(self, run_id: UUID, reason: str) -> None:
        log.warning("set_up_postponed", extra={"why": reason})
        with self.store.transaction() as session:
            if setups.postpone(session, run_id, reason=reason, seconds=RETRY_SECONDS):
                after_commit(session, lambda: self.send(wakes.deliver(run_id)))
