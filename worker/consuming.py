"""When this process takes messages: only while every gate has room. A message that came too late is sent on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Protocol
from uuid import UUID

from celery import Celery, bootsteps

from worker.wakes import Wake

log = logging.getLogger(__name__)


class Gate(Protocol):
    """Asked before each message is fetched, by the consumer's thread: it must not block."""

    def room(self) -> bool: ...


def hook(app: Celery, gates: Sequence[Gate]) -> None:
    """Let the worker of `app` fetch messages only while all `gates` have room. Before the worker is made."""

    class Gated(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
        """After the consumer's own step, which bounds what is fetched by the size of the pool; anew after each
        reconnection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            qos = consumer.task_consumer.channel.qos
            before = qos.can_consume

            def can_consume(_: Any) -> bool:
                return all(gate.room() for gate in gates) and bool(before())

            qos.can_consume = MethodType(can_consume, qos)

    app.steps["consumer"].add(Gated)


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
