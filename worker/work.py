"""The worker process: a Celery worker with a threads pool, around the use cases of its role."""

from __future__ import annotations

import logging
import socket
import warnings

from celery import signals
from celery.platforms import SecurityWarning

from worker import consumption, logs, queue, readiness, roles
from worker.settings import Settings
from worker.tasks import register

log = logging.getLogger(__name__)


def work(settings: Settings, role: roles.Role) -> int:
    """Run until SIGTERM; then take no more, let what runs reach the end of its step, and return 0, or 1
    where a dead engine asked for the end. A second SIGTERM ends the patience at once; and the process ends a few
    seconds after it, whatever still hangs."""
    logs.configure(settings.log_level)
    with roles.worker(settings, role) as runtime:
        register(
            runtime.app,
            {
                task: consumption.sent_on(
                    use_case, task=task, queue=runtime.queues[0], gates=runtime.doors, send=runtime.send
                )
                for task, use_case in runtime.use_cases.items()
            },
        )

        def greet() -> None:
            for wake in runtime.greet:
                runtime.send(wake)

        consumption.install(runtime.app, [*runtime.doors, *runtime.gates], connected=greet)

        def stopping(**_: object) -> None:
            runtime.shutdown.begin()

        signals.worker_shutting_down.connect(stopping, weak=False)
        log.info(
            "worker_started",
            extra={"role": role, "isolation": settings.isolation, "queues": runtime.queues, "slots": runtime.slots},
        )
        warnings.filterwarnings("ignore", category=SecurityWarning)  # what runs strangers' code drops its user itself
        worker = runtime.app.Worker(
            pool="threads",
            concurrency=runtime.slots,
            queues=list(runtime.queues),
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=settings.log_level,
            hostname=f"{role}@{socket.gethostname()}",
            quiet=True,
        )
        worker.start()
        asked = runtime.shutdown.begun.is_set()
        exitcode = int(worker.exitcode or 0)
    runtime.shutdown.done()
    log.info("worker_stopped", extra={"role": role})
    return runtime.shutdown.status if asked else exitcode


def beat(settings: Settings) -> int:
    """Run Celery's beat, which only sends the sweep; two of them do no harm, and none only slows recovery."""
    logs.configure(settings.log_level)
    signals.beat_init.connect(lambda **_: readiness.ready(), weak=False)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app = queue.make_app(
        settings.need("redis_url"),
        sweep_seconds=settings.sweep_seconds,
        reconcile_seconds=settings.reconcile_seconds,
    )
    app.Beat(schedule=str(settings.data_dir / "beat-schedule"), loglevel=settings.log_level, quiet=True).run()
    return 0
