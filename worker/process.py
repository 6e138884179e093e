"""What a worker process of any role is made of: what its role is given, what its role gives, and how it leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from celery import Celery

from worker import wakes
from worker.adapters.repos import GitRepositories
from worker.errors import ServiceError
from worker.gates import Gate, Measured
from worker.heartbeat import Heartbeat
from worker.observe import Watch
from worker.presence import Presence
from worker.settings import Settings
from worker.shutdown import Shutdown
from worker.store.session import Store

UseCases = dict[str, Callable[..., None]]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a worker process of one role executes, when it takes messages, and how it ends."""

    app: Celery
    send: Callable[[wakes.Wake], None]
    use_cases: dict[str, Callable[..., None]]
    queues: tuple[str, ...]
    slots: int
    doors: tuple[Gate, ...]  #: closed for good or for a time: what is asked for then is for other workers
    gates: tuple[Measured, ...]  #: what runs out: room for trajectories, room for commands
    greet: tuple[wakes.Wake, ...]  #: what it sends when messages begin to arrive: others may have been lost before
    shutdown: Shutdown


@dataclass(frozen=True, kw_only=True)
class Process:
    """What every role has."""

    settings: Settings
    store: Store
    send: Callable[[wakes.Wake], None]
    heartbeat: Heartbeat
    shutdown: Shutdown
    repositories: GitRepositories
    watch: Watch
    presence: Presence
    stack: ExitStack  #: closes what it opened, when the process ends


@dataclass(frozen=True, kw_only=True)
class Duty:
    """What one role does."""

    use_cases: UseCases
    gates: tuple[Measured, ...] = ()
    greet: tuple[wakes.Wake, ...] = ()


def closes(presence: Presence, shutdown: Shutdown) -> Callable[..., None]:
    """An exit of the process's stack: why it ends is in its row."""

    def close(_: object, error: BaseException | None, __: object) -> None:
        words = str(error) if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
        # Once it was told to end, what is taken apart may well fail: an engine that starts loses its processes.
        failed = isinstance(error, Exception) and not shutdown.begun.is_set()
        presence.close(shutdown.why or (words if failed else None))

    return close
