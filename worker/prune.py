"""Forgetting: old rows by the settings, and repositories of runs that ended and that this machine still has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from worker.settings import Settings
from worker.stages.ports import Repositories
from worker.store import pruning
from worker.store.session import Store

log = logging.getLogger(__name__)

LINGER = timedelta(hours=1)  # a worker that does not know yet that its run ended is left its files


@dataclass(frozen=True, kw_only=True)
class PruneRows:
    """Any number may run at once: a row is gone, or it is not."""

    store: Store
    request_days: int
    delivery_days: int
    step_days: int
    baseline_days: int

    @classmethod
    def by(cls, settings: Settings, store: Store) -> PruneRows:
        return cls(
            store=store,
            request_days=settings.keep_request_days,
            delivery_days=settings.keep_delivery_days,
            step_days=settings.keep_step_days,
            baseline_days=settings.keep_baseline_days,
        )

    def __call__(self, *, dry_run: bool = False) -> dict[str, int]:
        """How many of each kind were forgotten; with `dry_run`, would be."""

        def each(prune: Callable[..., int], days: int) -> int:
            def once(session: Session) -> int:
                return prune(session, days=days, count_only=dry_run)

            return self._repeat(once, once_only=dry_run)

        # Requests first: the rows of old deliveries are counted among them in a dry run, too.
        counts = {
            "requests": each(pruning.requests, self.request_days),
            "deliveries": each(pruning.deliveries, self.delivery_days),
            "steps": each(pruning.steps, self.step_days),
            "baselines": each(pruning.baselines, self.baseline_days),
        }
        if any(counts.values()) and not dry_run:
            log.info("rows_pruned", extra=counts)
        return counts

    def _repeat(self, once: Callable[[Session], int], *, once_only: bool) -> int:
        total = 0
        while True:
            with self.store.transaction() as session:
                count = once(session)
            total += count
            if once_only or count < pruning.BATCH:
                return total


@dataclass(frozen=True, kw_only=True)
class PruneRunDirs:
    """Every worker does it for its own disk: `deliver` drops what it used itself, but runs also end otherwise, and on
    other machines."""

    store: Store
    repositories: Repositories

    def __call__(self, *, dry_run: bool = False) -> dict[str, int]:
        known = [UUID(name) for name in self.repositories.run_ids() if _is_id(name)]
        with self.store.transaction() as session:
            ended = pruning.ended_runs(session, known, since=LINGER) if known else ()
        for run_id in () if dry_run else ended:
            self.repositories.drop_run_dir(str(run_id))
        if ended and not dry_run:
            log.info("run_directories_pruned", extra={"count": len(ended)})
        return {"run_directories": len(ended)}


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
