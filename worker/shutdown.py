"""The end of a worker process: what runs reaches the end of its step, then is broken off, then is left behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

from worker import descendants, readiness
from worker.errors import ServiceError
from worker.exits import Exit
from worker.heartbeat import Heartbeat
from worker.holding import Holding, Interruption
from worker.runs import states
from worker.store.models import Run, RunState
from worker.store.operations import Then
from worker.store.session import Store

log = logging.getLogger(__name__)

LAST_SECONDS = 8.0  # from the end of the grace until the process ends, whatever still hangs
HAND_BACK_SECONDS = 4.0


class Shutdown:
    """`begun` is set at the first request: take no more, end at the next step. After `grace` seconds, or at a second
    request, whatever is in flight is interrupted; a few seconds later the process ends with `status` all the same:
    done, or failed where it was not people who asked; `why` says it then."""

    def __init__(self, store: Store, heartbeat: Heartbeat, *, grace: float, last: float = LAST_SECONDS) -> None:
        self.begun = threading.Event()
        self.status = Exit.DONE
        self.why: str | None = None
        self._store = store
        self._heartbeat = heartbeat
        self._grace = grace
        self._last = last
        self._hurry = threading.Event()
        self._over = threading.Event()
        self._last_words: Callable[[], None] = lambda: None

    def last_words(self, action: Callable[[], None]) -> None:
        """What is done by a process that ends without having been taken apart. It may hang, and may not raise."""
        self._last_words = action

    def room(self) -> bool:
        """A gate: a process that ends takes no message."""
        return not self.begun.is_set()

    def when_room(self, action: Callable[[], None]) -> None:
        """It never comes back."""

    def begin(self) -> None:
        """May be called by a signal's handler, and again."""
        if self.begun.is_set():
            self._hurry.set()
            return
        self.begun.set()
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()

    def while_starting(self) -> None:
        """From the main thread: until Celery takes SIGTERM and SIGINT over, they end the process at once. An engine
        takes minutes to start, and the thread that waits for it can't be told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.abandon())

    def abandon(self) -> None:
        """End a process that holds nothing yet. May be called by a signal's handler, and again."""
        if self.begun.is_set():
            return
        self.begun.set()
        log.info("ended_while_starting")
        threading.Thread(target=self._leave, name="shutdown", daemon=True).start()

    def fail(self, why: str) -> None:
        """What all work here needs is gone for good. The process ends as it does for people, what it holds goes back,
        and its status makes whoever supervises it start it again. From any thread; never blocks."""
        log.error("worker_failed", extra={"reason": why})
        self.status, self.why = Exit.FAILED, why
        readiness.failed(why)
        os.kill(os.getpid(), signal.SIGTERM)

    def drained(self, then: Then) -> None:
        """People asked for the end, and wait for it; to start again is its supervisor's part. From any thread."""
        if self.begun.is_set():
            return
        log.info("drained", extra={"then": then.value})
        self.status = Exit.FAILED if then is Then.RESTART else Exit.DONE
        os.kill(os.getpid(), signal.SIGTERM)

    def done(self) -> None:
        """Everything ended by itself."""
        self._over.set()
        self._hurry.set()

    def _run(self) -> None:
        self._hurry.wait(self._grace)
        if self._over.is_set():
            return
        held = [work.stage for work in self._heartbeat.held()]
        log.info("grace_is_over", extra={"interrupted": held})
        self._heartbeat.interrupt_all()
        if self._over.wait(self._last):
            return
        log.error("alarm_left_behind", extra={"stages": [work.stage for work in self._heartbeat.held()]})
        self._leave(self.hand_back)

    def _leave(self, first: Callable[[], None] = lambda: None) -> None:
        """Should the database hang, the process ends all the same."""
        timer = threading.Timer(HAND_BACK_SECONDS, self._end)
        timer.daemon = True
        timer.start()
        first()
        self._last_words()
        self._end()

    def _end(self) -> None:
        descendants.end()
        os._exit(self.status)

    def hand_back(self) -> None:
        """Runs whose threads did not come back are freed at once: this process writes nothing more."""
        for work in self._heartbeat.held():
            if not isinstance(work, Holding) or work.why is Interruption.LOST:
                continue
            try:
                with self._store.transaction() as session:
                    run = session.get_one(Run, work.lease.run_id)
                    reason = "its worker was shut down"
                    if run.state is RunState.RUNNING:
                        states.advance(session, work.lease, RunState.QUEUED, reason=reason, not_before=None)
                    else:
                        states.hand_back_stage(session, work.lease, reason=reason, wait=0.0, counts=False)
            except ServiceError as error:
                log.warning("not_handed_back", extra={"run_id": work.run_id, "why": str(error)})
