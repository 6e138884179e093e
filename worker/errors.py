"""The service's own failures. Adapters translate library errors into these at their border; only a task's edge
decides what they mean: Transient sends the run back to the queue, Permanent ends it."""

from __future__ import annotations


class ServiceError(Exception):
    """The root; never raised itself."""


class Transient(ServiceError):
    """It may work later: the run goes back to the queue with the reason visible."""


class Permanent(ServiceError):
    """Trying again would not help: the run fails with the reason."""


class ModelUnavailable(Transient):
    """The model server did not answer, or answered that it can't now."""


class ModelRejected(Permanent):
    """The model server refused the request itself."""


class ScriptMismatch(Permanent):
    """A scripted model was asked something else than its script expects."""


class SandboxUnavailable(Transient):
    """The sandbox itself failed; nothing a command printed is in this message."""


class IsolationMissing(Permanent):
    """This machine can't give the isolation that was asked for; the message says what would mend it."""


class ForgeUnavailable(Transient):
    """GitHub did not answer, or asked us to wait (`retry_after` seconds, where it said so)."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ForgeRefused(Permanent):
    """GitHub refused: no permission, not found, or not possible."""


class RepositoryUnavailable(Transient):
    """Fetching or pushing failed in a way that may pass."""


class RepositoryRefused(Permanent):
    """The repository can't be cloned or pushed to with what we hold."""


class BadPatch(Permanent):
    """A patch that must not be stored or pushed."""


class LeaseLost(ServiceError):
    """Another worker holds this run now; nothing more may be written."""


class AddressUnavailable(Transient):
    """Nobody can listen at an address that one of our servers needs: it is taken, or not this machine's."""


class ShuttingDown(Transient):
    """This worker is asked to stop; the work goes on elsewhere."""


class DeadlinePassed(Transient):
    """Our own work took longer than it may, whatever hung."""


class Paused(Transient):
    """People called the work back: the service, or its repository, is paused, or its worker drained."""


class SettingsError(Permanent):
    """A setting or an argument is missing or unusable; the message names it and, of a setting, gives an example."""
