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
TELL = "devstral_fix.tell"
SWEEP = "devstral_fix.sweep"
NOTIFY = "devstral_fix.notify"
RECONCILE = "devstral_fix.reconcile"


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
    """A permit to take runs of a profile until none is left; it names none."""
    return Wake(task=PURSUE, queue=gpu_queue(profile), drains=True)


def setup(run_id: UUID) -> Wake:
    """Make the layer that a run waits for; harmless when it is there, in the making, or no longer waited for."""
    return Wake(task=SETUP, queue=CPU, id=run_id)


def notify() -> Wake:
    """A permit to send what the notification hook is to be told, until nothing is due."""
    return Wake(task=NOTIFY, queue=DEFAULT, drains=True)


def verify(run_id: UUID) -> Wake:
    return Wake(task=VERIFY, queue=CPU, id=run_id)


def deliver(run_id: UUID) -> Wake:
    return Wake(task=DELIVER, queue=DEFAULT, id=run_id)


def tell(run_id: UUID) -> Wake:
    """Show at its issue how a live run gets on."""
    return Wake(task=TELL, queue=DEFAULT, id=run_id)


def sweep() -> Wake:
    """Announce what is due now, rather than when beat says so."""
    return Wake(task=SWEEP, queue=DEFAULT)
