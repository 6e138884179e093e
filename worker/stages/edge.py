"""The edge of a use case: what all stages do alike where an error ends their work on a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import LeaseLost, Permanent

log = logging.getLogger(__name__)


@contextmanager
def unless_lost() -> Iterator[None]:
    """Around the transaction that ends a stage: whoever lost the lease meanwhile has nothing to write any more."""
    try:
        yield
    except LeaseLost:
        log.warning("lease_lost")


def last_words(error: Exception, crash: str) -> str:
    """Why a run has failed, for people. What is no error of the service's own is a bug: logged whole, as `crash`."""
    if isinstance(error, Permanent):
        return str(error)
    log.error(crash, exc_info=error)
    return f"internal error: {type(error).__name__}: {error}"
