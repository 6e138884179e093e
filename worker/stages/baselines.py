"""How the tests end before any change: executed here, or taken from what an earlier run of the same commit kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from agent.outcome import Execution
from worker.errors import Transient
from worker.runs import baselines
from worker.runs.baselines import Busy, Claim, Key
from worker.store.session import Store

LONGEST_WAIT = 300.0  # seconds until a run asks again that nobody woke


class BaselineBusy(Transient):
    """Another run is executing the baseline of `key` now, for `seconds` at most."""

    def __init__(self, key: Key, seconds: float) -> None:
        super().__init__(baselines.WAITS)
        self.key = key
        self.wait = min(max(seconds, 1.0), LONGEST_WAIT)


class Baselines(Protocol):
    def of(self, key: Key, execute: Callable[[], tuple[Execution, bool]], *, seconds: float) -> tuple[Execution, bool]:
        """The execution, and whether it is one that was kept. `execute` says also whether it would end so again, and
        takes `seconds` at most."""


class NotKept:
    """Where there is no database."""

    def of(self, key: Key, execute: Callable[[], tuple[Execution, bool]], *, seconds: float) -> tuple[Execution, bool]:
        del key, seconds
        return execute()[0], False


@dataclass(frozen=True, kw_only=True)
class KeptBaselines:
    """BaselineBusy where another one executes it now."""

    store: Store

    def of(self, key: Key, execute: Callable[[], tuple[Execution, bool]], *, seconds: float) -> tuple[Execution, bool]:
        with self.store.transaction() as session:
            found = baselines.take(session, key, seconds=seconds)
        if isinstance(found, Execution):
            return found, True
        if isinstance(found, Busy):
            raise BaselineBusy(key, found.seconds)
        try:
            execution, sure = execute()
        except BaseException:
            self._release(found)
            raise
        with self.store.transaction() as session:
            baselines.keep(session, found, execution, sure=sure)
        return execution, False

    def _release(self, claim: Claim) -> None:
        with suppress(Transient), self.store.transaction() as session:  # otherwise it is free when its time is over
            baselines.release(session, claim)
