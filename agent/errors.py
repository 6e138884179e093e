"""Control flow of the loop: a trajectory ends by one of these, and each says which exit status it means."""

from __future__ import annotations

from agent.types import ExitStatus


class AgentEnd(Exception):
    """The trajectory is over."""

    exit_status: ExitStatus = ExitStatus.ERROR

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or (self.__doc__ or "").strip())
        self.reason = str(self)


class Submitted(AgentEnd):
    """The model said it is done."""

    exit_status = ExitStatus.SUBMITTED


class LimitsExceeded(AgentEnd):
    """A limit on steps, tokens, wall time or money was reached."""

    exit_status = ExitStatus.LIMITS_EXCEEDED


class FormatErrors(AgentEnd):
    """Too many unusable answers in a row."""

    exit_status = ExitStatus.FORMAT_ERRORS


class Stuck(AgentEnd):
    """The model went on with what had been named to it as leading nowhere."""

    exit_status = ExitStatus.STUCK


class Cancelled(AgentEnd):
    """A person or a shutdown asked for the end."""

    exit_status = ExitStatus.CANCELLED


def ended(status: ExitStatus, reason: str) -> AgentEnd:
    """The end of that status once more, as a step has recorded it."""
    kind = next((kind for kind in AgentEnd.__subclasses__() if kind.exit_status is status), AgentEnd)
    return kind(reason)


class NotSaved(Exception):
    """A session's snapshot can't be taken because of what is in the workspace. `reason` is in our own words; `detail`
    has names of files in it, and is for the model alone."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class ToolFailure(Exception):
    """A tool could not do what was asked; the text tells the model what to do next."""


class CommandTimedOut(ToolFailure):
    """What a tool ran did not end in its time."""
