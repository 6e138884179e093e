"""What the use cases tell of their work, in their own words; metrics and traces are made of it here.

Nothing here may fail a run: each method only counts, or adds to a trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from agent.outcome import Outcome
from agent.types import Step, Usage
from worker.errors import ModelRejected, ModelUnavailable, SandboxUnavailable
from worker.observe.metrics import Metrics
from worker.observe.tracing import Recording, Tracing


@dataclass(frozen=True, kw_only=True)
class Watch:
    """One per process; by default it counts for nobody and traces nothing."""

    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing = field(default_factory=Tracing)

    @contextmanager
    def stage(self, name: str, run_id: UUID, traceparent: str | None) -> Iterator[Recording]:
        """A stage's work on a run, below the webhook that asked for it."""
        with self.tracing.span(name, parent=traceparent, run_id=str(run_id)) as recording:
            yield recording

    def claimed(self, profile: str, waited: float) -> None:
        """`waited`: seconds from queued to claimed, by the database's clock."""
        self.metrics.claimed(profile, waited)

    def ended(self, *, state: str, outcome: Outcome | None, kind: str, profile: str) -> None:
        self.metrics.run_ended(state=state, outcome=outcome, kind=kind, profile=profile)

    def taken_over(self) -> None:
        self.metrics.taken_over()

    def lease_lost(self) -> None:
        self.metrics.lease_lost()

    def called(self, *, model: str, repository: str, usage: Usage, usd: float, seconds: float) -> None:
        """A model call that was booked."""
        self.metrics.model_called(model, seconds)
        self.metrics.spent(model, repository, usage, usd)
        self.tracing.past(
            "model_call",
            seconds,
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached,
            cache_untold_tokens=usage.cache_untold,
            completion_tokens=usage.completion,
        )

    def stepped(self, step: Step, *, model: str, engine: str) -> None:
        """A step that was recorded."""
        if step.repairs is not None:
            self.metrics.answered(model, step.repairs)
        ago = 0.0
        for action in step.actions:
            if action.malformed:
                self.metrics.malformed_call(model, engine, action.call.name)
        if step.malformed > sum(action.malformed for action in step.actions):
            self.metrics.malformed_call(model, engine, "")  # a call that was spelled out, and could not be read
        for action in reversed(step.actions):
            self.tracing.past("tool", action.seconds, ago=ago, tool=action.call.name[:64], ok=action.ok)
            ago += action.seconds

    def commanded(self, status: str, seconds: float, waited: float) -> None:
        """A sandboxed command that ended, and how long it waited for its turn."""
        self.metrics.command_ran(status, seconds)
        self.metrics.gate_waited("commands", waited)

    def admitted(self, waited: float) -> None:
        """A trajectory that found room for its tokens, and how long there was none."""
        self.metrics.gate_waited("kv_tokens", waited)

    def forge_answered(self, account: str, kind: str, status: int) -> None:
        """GitHub's answer to a request that counts for `account`; 304: what was kept still holds."""
        self.metrics.forge_answered(account, kind, status)

    def forge_waited(self, account: str, seconds: float) -> None:
        """At the gate before GitHub."""
        self.metrics.forge_waited(account, seconds)

    def failed(self, error: BaseException) -> None:
        """What the agent stands on failed, and the run with it, or for now."""
        if isinstance(error, ModelUnavailable | ModelRejected):
            self.metrics.port_failed("model", error)
        elif isinstance(error, SandboxUnavailable):
            self.metrics.port_failed("sandbox", error)
