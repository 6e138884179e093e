"""The demo's live progress: what the run does now, read from the store as it happens."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import UUID

from rich.console import Console
from rich.status import Status
from sqlalchemy import select

from worker.demo.seed import REPOSITORY
from worker.runs.states import FINAL
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, Run
from worker.store.session import Store
from worker.terminal import visible

POLL = 0.1  # seconds; the demo watches from outside, as a person would


class Progress:
    """One line at a time: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def stage(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._started:5.1f} s  {visible(text)}", markup=False, soft_wrap=True)
        if self._status is not None:
            self._status.update("")

    def wait_for_api(self, port: int, timeout: float = 60.0) -> None:
        """Until the API answers; it is another process, so asking is the only way to know."""
        deadline = time.monotonic() + timeout
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the environment says
        while True:
            try:
                with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)


def wait_for_end(
    store: Store, progress: Progress, issue_number: int, *, timeout: float, broken: Callable[[], list[str]]
) -> UUID | None:
    """Follow the run of an issue until it is final, and return its id; None when no run came of the delivery.

    `broken` names processes that keep dying; waiting for them would be for nothing.
    """
    deadline = time.monotonic() + timeout
    seen_steps, last = 0, ""
    while time.monotonic() < deadline:
        with store.transaction() as session:
            run = session.scalar(
                select(Run).where(Run.repository == REPOSITORY, Run.issue_number == issue_number).limit(1)
            )
            ignored = session.scalar(
                select(Delivery.reason).where(
                    Delivery.event == "issues",
                    Delivery.action == "labeled",
                    Delivery.state.in_([DeliveryState.IGNORED, DeliveryState.FAILED]),
                )
            )
            steps = list(queries.steps(session, run.id))[seen_steps:] if run else []
        for step in steps:
            calls = ", ".join(_call(action) for action in step.actions) or "no tool call: done"
            progress.stage(f"step {step.index + 1}: {calls}")
        seen_steps += len(steps)
        if run is not None:
            now = run.state.value + (f" ({run.outcome.value})" if run.outcome else "")
            if run.state not in FINAL and run.reason and not run.outcome:
                now += f": {run.reason}"
            if now != last:
                progress.stage(f"run {now}")
                last = now
            if run.state in FINAL:
                return run.id
        elif ignored is not None:
            progress.stage(f"delivery ignored: {ignored}")
            return None
        if dying := broken():
            progress.stage(f"these processes keep dying: {', '.join(dying)}")
            return None if run is None else run.id
        time.sleep(POLL)
    progress.stage(f"gave up after {timeout:.0f} s")
    return None if run is None else run.id


def _call(action: dict[str, object]) -> str:
    text = str(action["arguments"]).replace("\n", " ")
    return f"{action['name']} {text[:70]}{'…' if len(text) > 70 else ''}"
