"""What one process counts, as Prometheus metrics in a registry of its own.

Names start with `devstral_fix_`; times are seconds, money is USD. Labels are of few values: models, profiles, tools,
repositories that are worked on here; never a run, a person, or a text that a stranger wrote.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.outcome import Outcome
from agent.types import CallTimes, Usage

NAMESPACE = "devstral_fix"
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120, 600, 3600, 4 * 3600)
_CALLS = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)
_TOKEN = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.25, 0.5, 1)
_COMMANDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300)
OTHER_TOOL = "other"


class Cost(Collector):
    """Booked cost in whole millionths of a dollar, as the ledger rounds each call: so its sum has no long tail."""

    def __init__(self) -> None:
        self._micro: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def add(self, model: str, repository: str, usd: float) -> None:
        micro = round(Decimal(repr(usd)) * 1_000_000)
        with self._lock:
            self._micro[model, repository] = self._micro.get((model, repository), 0) + micro

    def collect(self) -> Iterable[Metric]:
        shown = CounterMetricFamily(
            f"{NAMESPACE}_cost_usd", "Booked cost of model calls.", labels=["model", "repository"]
        )
        with self._lock:
            for labels, micro in self._micro.items():
                shown.add_metric(labels, micro / 1_000_000)
        return [shown]


class Metrics:
    """One per process. Safe for threads; every method is a few microseconds and raises nothing."""

    def __init__(self, *, tools: frozenset[str] = frozenset()) -> None:
        """`tools`: names that may become a label; a name that a model invented counts as `other`."""
        self.registry = CollectorRegistry()
        self._tools = tools
        self._claims = self._histogram(
            "claim_latency_seconds", "From queued to first claimed, holds and pauses included.", ["profile"], _WAITS
        )
        self._ended = self._counter(
            "runs_ended",
            "Runs that a worker ended; the API counts those cancelled while they waited.",
            ["state", "outcome", "kind", "profile"],
        )
        self._takeovers = self._counter("lease_takeovers", "Leases that ran out and were taken from their worker.", [])
        self._lost = self._counter("leases_lost", "Leases that this process held and lost.", [])
        self._calls = self._histogram("model_call_seconds", "Model calls.", ["model"], _CALLS)
        self._parts = self._histogram(
            "engine_call_seconds",
            "Parts of a call to this process's engine: turn (before it was submitted), queue, first_token (the queue"
            " included), decode.",
            ["model", "part"],
            (*_WAITS[:7], 2, 5, 10, 20, 40, 80, 160),
        )
        self._per_token = self._histogram(
            "decode_token_seconds", "Decoding in this process's engine, each token after the first.", ["model"], _TOKEN
        )
        self._again = self._counter(
            "reprefilled_tokens", "Prompt tokens computed again: a cache had been made of them, and lost.", ["model"]
        )
        self._answers = self._counter("answers", "Answers that were read.", ["model"])
        self._repairs = self._counter("answer_repairs", "What had to be mended to read an answer.", ["model", "kind"])
        self._tokens = self._counter("tokens", "Tokens of model calls.", ["model", "repository", "kind"])
        self._cost = Cost()
        self.registry.register(self._cost)
        self._malformed = self._counter(
            "malformed_tool_calls", "Tool calls that could not be run as written.", ["model", "engine", "tool"]
        )
        self._commands = self._histogram("command_seconds", "Sandboxed commands.", ["status"], _COMMANDS)
        self._errors = self._counter("port_errors", "Failures of what the agent stands on.", ["port", "error"])
        self._gate_waits = self._histogram("gate_wait_seconds", "Waits for room.", ["gate"], _WAITS)
        self._github = self._counter(
            "github_requests",
            "Requests that GitHub answered, by whom they count for; 304: what was kept still holds.",
            ["account", "kind", "status"],
        )
        self._github_waits = self._histogram(
            "github_wait_seconds", "Waits at the gate before GitHub.", ["account"], _WAITS[:9]
        )

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, labels, namespace=NAMESPACE, registry=self.registry, buckets=buckets)

    def claimed(self, profile: str, waited: float) -> None:
        self._claims.labels(profile).observe(max(waited, 0.0))

    def run_ended(self, *, state: str, outcome: Outcome | None, kind: str, profile: str) -> None:
        self._ended.labels(state, outcome.value if outcome else "none", kind, profile).inc()

    def taken_over(self) -> None:
        self._takeovers.inc()

    def lease_lost(self) -> None:
        self._lost.inc()

    def model_called(self, model: str, seconds: float) -> None:
        self._calls.labels(model).observe(seconds)

    def generated(self, model: str, usage: Usage, times: CallTimes) -> None:
        """A call in this process's engine, aborted ones included."""
        for part, seconds in (("turn", times.turn), ("queue", times.queued)):
            self._parts.labels(model, part).observe(seconds)
        if times.first:
            self._parts.labels(model, "first_token").observe(times.first)
            self._parts.labels(model, "decode").observe(times.decode)
        if usage.completion > 1:
            self._per_token.labels(model).observe(times.decode / (usage.completion - 1))
        self._again.labels(model).inc(times.again)

    def answered(self, model: str, repairs: Sequence[str]) -> None:
        """`repairs`: kinds, of which there are few."""
        self._answers.labels(model).inc()
        for kind in repairs:
            self._repairs.labels(model, kind).inc()

    def spent(self, model: str, repository: str, usage: Usage, usd: float) -> None:
        self._tokens.labels(model, repository, "prompt_uncached").inc(usage.prompt - usage.cached - usage.cache_untold)
        self._tokens.labels(model, repository, "prompt_cache_untold").inc(usage.cache_untold)
        self._tokens.labels(model, repository, "cached").inc(usage.cached)
        self._tokens.labels(model, repository, "completion").inc(usage.completion)
        self._cost.add(model, repository, usd)

    def malformed_call(self, model: str, engine: str, tool: str) -> None:
        self._malformed.labels(model, engine, tool if tool in self._tools else OTHER_TOOL).inc()

    def command_ran(self, status: str, seconds: float) -> None:
        self._commands.labels(status).observe(seconds)

    def port_failed(self, port: str, error: BaseException) -> None:
        """`port`: model or sandbox."""
        self._errors.labels(port, type(error).__name__).inc()

    def gate_waited(self, gate: str, seconds: float) -> None:
        self._gate_waits.labels(gate).observe(seconds)

    def forge_answered(self, account: str, kind: str, status: int) -> None:
        """`account`: an installation, an App or a token's digest; `kind`: read, write or graphql."""
        self._github.labels(account, kind, status).inc()

    def forge_waited(self, account: str, seconds: float) -> None:
        self._github_waits.labels(account).observe(seconds)
