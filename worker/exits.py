"""What the exit status of every command says, in one place."""

from __future__ import annotations

from enum import IntEnum

from worker.errors import (
    ForgeRefused,
    IsolationMissing,
    ModelRejected,
    RepositoryRefused,
    ServiceError,
    SettingsError,
    Transient,
)


class Exit(IntEnum):
    DONE = 0
    FAILED = 1  #: what was asked for did not succeed
    USAGE = 2  #: arguments or settings; click's own errors end so, too
    UNAVAILABLE = 3  #: a service, or the machine, that is needed is missing or refuses


_REFUSED = (Transient, ForgeRefused, IsolationMissing, ModelRejected, RepositoryRefused)


def of(error: ServiceError) -> Exit:
    if isinstance(error, SettingsError):
        return Exit.USAGE
    return Exit.UNAVAILABLE if isinstance(error, _REFUSED) else Exit.FAILED
