"""Something done again and again in a thread of its own, which no failure ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from worker.errors import Transient

log = logging.getLogger(__name__)


class Periodic:
    """Calls `action` every `seconds`, the first time after one period."""

    def __init__(self, name: str, action: Callable[[], object], *, seconds: float) -> None:
        self._name = name
        self._action = action
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._action()
            except Transient as error:
                log.warning("periodic_postponed", extra={"what": self._name, "why": str(error)})
            except Exception:
                log.exception("periodic_failed", extra={"what": self._name})
