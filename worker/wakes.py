"""Names of queues and tasks, and the messages between processes: a wake-up with at most an id."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

DEFAULT, CPU = "default", "cpu"
SETUP = "devstral_fix.setup"
INTAKE = "devstral_fix.intake"
PURSUE = "devstral_fix.pursue"
VERIFY = "devstral_fix.verify"
DELIVER = "devstral_fix.deliver"
SWEEP = "devstral_fix.sweep"


def gpu_queue(profile: str) -> str:
    return f"gpu.{profile}"


@dataclass(frozen=True, kw_only=True)
class Wake:
    """One message: which task, on which queue, with at most an id. A task that `drains` goes on until nothing is left,
    so that a few messages serve for any number of rows."""

    task: str
    queue: str
    id: UUID | None = None
    drains: bool = False


def intake() -> Wake:
    """A permit to take received deliveries until none is left."""
    return Wake(task=INTAKE, queue=DEFAULT, drains=True)


def permit(profile: str) -> Wake:
    """A permit to take the next run of a profile; it names none."""
    return Wake(task=PURSUE, queue=gpu_queue(profile))


def setup(run_id: UUID) -> Wake:
    """Make the layer that a run waits for; harmless when it is there, in the making, or no longer waited for."""
    return Wake(task=SETUP, queue=CPU, id=run_id)


def verify(run_id: UUID) -> Wake:
    return Wake(task=VERIFY, queue=CPU, id=run_id)


def deliver(run_id: UUID) -> Wake:
    return Wake(task=DELIVER, queue=DEFAULT, id=run_id)


def sweep() -> Wake:
    """Announce what is due now, rather than when beat says so."""
    return Wake(task=SWEEP, queue=DEFAULT)
