"""Writes down, with each beat, how long this process's engine was busy and idle."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from worker.errors import Transient
from worker.runs import engine_time
from worker.store.session import Store

log = logging.getLogger(__name__)


class EngineClock:
    """`times()`: busy and idle seconds since the engine's start; both only grow."""

    def __init__(
        self, store: Store, worker: str, *, profile: str, gpus: int, times: Callable[[], tuple[float, float]]
    ) -> None:
        self._store = store
        self._worker = worker
        self._profile = profile
        self._gpus = gpus
        self._times = times
        self._written = (0.0, 0.0)
        self._lock = threading.Lock()  # the last writing may meet a beat

    def __call__(self) -> None:
        """Raises what the store raises; nothing is lost then, the next writing has it."""
        with self._lock:
            now = self._times()
            busy, idle = (new - old for new, old in zip(now, self._written, strict=True))
            with self._store.transaction() as session:
                engine_time.add(session, self._worker, self._profile, gpus=self._gpus, busy=busy, idle=idle)
            self._written = now

    def close(self) -> None:
        """What passed since the last beat, too."""
        try:
            self()
        except Transient:
            log.warning("engine_time_not_written")
