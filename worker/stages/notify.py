"""Tell the operator's hook what the outbox holds, until nothing is due. Runs on the `default` worker.

At least once: the receiver knows a repeated one by its id.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from agent.types import Frozen
from worker.errors import Permanent, Transient
from worker.runs import notifications
from worker.store.session import Store

log = logging.getLogger(__name__)
CLAIM_SECONDS = 60.0
SHORTEST_PAUSE, LONGEST_PAUSE = 15.0, 1800.0
PATIENCE_SECONDS = 24 * 3600.0


class Message(Frozen):
    """What the hook is sent, as JSON. `id` is the same at each try."""

    id: UUID
    kind: str
    created_at: datetime
    data: dict[str, Any]


class Notifier(Protocol):
    def send(self, message: Message) -> None:
        """Transient when it may be taken later, Permanent when the receiver refuses it."""


@dataclass(frozen=True, kw_only=True)
class Notify:
    """The task body of `notify`. Without a hook (`notifier` None) nothing is kept for one that may come."""

    store: Store
    notifier: Notifier | None

    def __call__(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        with self.store.transaction() as session:
            row = notifications.claim(session, seconds=CLAIM_SECONDS)
            if row is None:
                return False
            if self.notifier is None:
                notifications.finish(session, row.id, reason="no hook is set")
                return True
        message = Message(id=row.id, kind=row.kind, created_at=row.created_at, data=row.payload)
        try:
            self.notifier.send(message)
        except Transient as error:
            pause = min(SHORTEST_PAUSE * 2.0 ** min(row.attempt - 1, 20), LONGEST_PAUSE)
            with self.store.transaction() as session:
                given_up = notifications.postpone(
                    session, row.id, reason=str(error), seconds=pause, patience=PATIENCE_SECONDS
                )
            log.warning("notification_postponed", extra={"kind": row.kind, "why": str(error), "given_up": given_up})
        except Permanent as error:
            log.error("notification_refused", extra={"kind": row.kind, "why": str(error)})  # noqa: TRY400 - no trace
            with self.store.transaction() as session:
                notifications.finish(session, row.id, reason=str(error))
        else:
            with self.store.transaction() as session:
                notifications.finish(session, row.id)
            log.info("notified", extra={"kind": row.kind, "notification": row.id})
        return True
