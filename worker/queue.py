"""The Celery application, and how a message is sent. Imports no task code.

A message is only a wake-up: Postgres holds the order and the truth, so a lost or doubled message harms nothing.
Early ack, no prefetch, no countdowns, no results: Redis' visibility timeout would run long jobs twice.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence

from celery import Celery

from worker.wakes import DEFAULT, RECONCILE, SWEEP, Wake

log = logging.getLogger(__name__)


def broker_url(redis_url: str) -> str:
    """The same for kombu, which has words of its own for a socket."""
    scheme, sign, rest = redis_url.partition("://")
    return f"redis+socket://{rest.replace('?db=', '?virtual_host=')}" if scheme == "unix" else scheme + sign + rest


def make_app(
    redis_url: str,
    *,
    sweep_seconds: float = 10.0,
    reconcile_seconds: float = 600.0,
    visibility_seconds: float = 7200.0,
) -> Celery:
    """A Celery application; tasks are registered by the worker process alone (`worker.tasks.register`)."""
    app = Celery("devstral_fix", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": visibility_seconds,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        task_default_queue=DEFAULT,
        beat_schedule={
            # It never expires: that would compare beat's clock with a worker's. A backlog of sweeps is paced instead.
            "sweep": {"task": SWEEP, "schedule": sweep_seconds, "options": {"queue": DEFAULT}},
            "reconcile": {"task": RECONCILE, "schedule": reconcile_seconds, "options": {"queue": DEFAULT}},
        },
    )
    return app


PAUSE = 0.05  # seconds between two rounds of the publisher: in the API a round gathers a burst of webhooks
SHORT_PAUSE = 0.005  # in a worker a permit wakes a slot that passes the next one on: there each pause adds up


def coalesced(wakes: Sequence[Wake]) -> list[Wake]:
    """What has to be sent so that every wake-up has its effect: of equal ones that drain, one is enough a round."""
    draining: set[Wake] = set()
    kept = []
    for wake in wakes:
        if wake not in draining:
            kept.append(wake)
        if wake.drains:
            draining.add(wake)
    return kept


class Publisher:
    """Sends wake-ups from a thread of its own, so that nobody waits for Redis. What can't be sent is dropped with a
    log line: the rows are there, and the sweep announces them again."""

    def __init__(self, app: Celery, *, limit: int = 10_000, pause: float = PAUSE) -> None:
        self._app = app
        self._pause = pause
        self._queue: queue.Queue[Wake | None] = queue.Queue(maxsize=limit)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def send(self, wake: Wake) -> None:
        """Never blocks, never raises."""
        try:
            self._queue.put_nowait(wake)
        except queue.Full:
            log.warning("wake_dropped", extra={"task": wake.task, "why": "publisher's queue is full"})

    def close(self, timeout: float = 5.0) -> None:
        """Send what is waiting and stop; after `timeout` what is still waiting is the sweep's."""
        self._closing.set()
        with contextlib.suppress(queue.Full):  # a full queue needs nobody to wake its reader
            self._queue.put_nowait(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            waiting = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            for wake in coalesced([wake for wake in waiting if wake is not None]):
                self._send(wake)
            if self._closing.is_set() and self._queue.empty():
                return
            # A burst is gathered while the first messages of it are on their way.
            self._closing.wait(self._pause)

    def _send(self, wake: Wake) -> None:
        args = [] if wake.id is None else [str(wake.id)]
        try:
            self._app.send_task(wake.task, args=args, queue=wake.queue, retry=False)
        except Exception as error:  # noqa: BLE001 - whatever kombu raises, the sweep repeats the message
            log.warning("wake_not_sent", extra={"task": wake.task, "why": type(error).__name__})
