"""When this worker takes messages from Redis: while a slot is free, and every gate has room. A message that came too
late is sent on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any
from uuid import UUID

from celery import Celery, bootsteps
from celery.worker.consumer.tasks import Tasks

from worker.gates import Gate
from worker.wakes import Wake

log = logging.getLogger(__name__)


def install(app: Celery, gates: Sequence[Gate], *, connected: Callable[[], None]) -> None:
    """Make the app's workers heed `gates`. `connected` is called each time messages begin to arrive: at the start, and
    after the broker was lost, with whatever messages it forgot."""

    class GatedTasks(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = (Tasks,)

        def start(self, consumer: Any) -> None:
            _wrap(consumer.task_consumer.channel, gates)
            if consumer.hub is not None:
                self._wake_when_room(consumer.hub)
            connected()

        def _wake_when_room(self, hub: Any) -> None:
            # The event loop looks at the gates once a turn, and may sleep a second in between.
            for gate in gates if not hasattr(hub, "_woken_by_gates") else ():
                gate.when_room(lambda: hub.call_soon(_nothing))
            hub._woken_by_gates = True  # noqa: SLF001 - the hub outlives connections: once is enough

    app.steps["consumer"].add(GatedTasks)


def _nothing() -> None:
    """Called in the event loop: that it turns is all there is to it."""


def _wrap(channel: Any, gates: Sequence[Gate]) -> None:
    """The hook that `worker_disable_prefetch` uses, too: kombu asks it before it asks Redis for a message."""
    before = channel.qos.can_consume

    def can_consume(_: Any) -> bool:
        if not before():
            return False
        # Redis may answer a question that was asked while there was room. That message is read and handed to a slot,
        # which passes it on; left unread it would be lost to others for as long as the gates are full.
        return bool(channel._in_poll) or all(gate.room() for gate in gates)  # noqa: SLF001

    channel.qos.can_consume = MethodType(can_consume, channel.qos)


def sent_on(
    use_case: Callable[..., None],
    *,
    task: str,
    queue: str,
    gates: Sequence[Gate],
    send: Callable[[Wake], None],
) -> Callable[..., None]:
    """`use_case`, unless there is no room (a message may be on its way when a gate closes): then it is for others."""

    def handle(*ids: UUID) -> None:
        if all(gate.room() for gate in gates):
            use_case(*ids)
            return
        log.info("message_sent_on", extra={"task": task})
        send(Wake(task=task, queue=queue, id=ids[0] if ids else None))

    return handle
