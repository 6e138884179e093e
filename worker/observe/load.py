"""How full the gates of this process are, and what its engine does, asked when someone fetches the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.gates import Measured
from worker.observe.metrics import NAMESPACE


class GateLoads(Collector):
    def __init__(self, gates: Sequence[Measured]) -> None:
        self._gates = gates

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterable[Metric]:
        inside = GaugeMetricFamily(f"{NAMESPACE}_gate_holding", "Admitted by a gate now.", labels=["gate"])
        waiting = GaugeMetricFamily(f"{NAMESPACE}_gate_waiting", "Waiting at a gate now.", labels=["gate"])
        for gate in self._gates:
            load = gate.load()
            inside.add_metric([gate.name], load.holding)
            waiting.add_metric([gate.name], load.waiting)
        return [inside, waiting]


class EngineLoad(Protocol):
    """What an engine says of itself."""

    @property
    def running(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def kv_used(self) -> float: ...

    @property
    def busy_seconds(self) -> float: ...

    @property
    def idle_seconds(self) -> float: ...

    @property
    def failed_gpu_seconds(self) -> float: ...


class EngineLoads(Collector):
    def __init__(self, load: Callable[[], EngineLoad]) -> None:
        self._load = load

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterable[Metric]:
        load = self._load()
        calls = GaugeMetricFamily(f"{NAMESPACE}_engine_calls", "Calls in the engine now.", labels=["state"])
        calls.add_metric(["running"], load.running)
        calls.add_metric(["waiting"], load.waiting)
        kv = GaugeMetricFamily(f"{NAMESPACE}_engine_kv_used_ratio", "Of the engine's KV memory, in use now.")
        kv.add_metric([], load.kv_used)
        time = CounterMetricFamily(
            f"{NAMESPACE}_engine_seconds", "With calls in flight, and without.", labels=["state"]
        )
        time.add_metric(["busy"], load.busy_seconds)
        time.add_metric(["idle"], load.idle_seconds)
        failed = CounterMetricFamily(
            f"{NAMESPACE}_engine_failed_gpu_seconds", "Shares of calls that got no answer: nobody is booked for them."
        )
        failed.add_metric([], load.failed_gpu_seconds)
        return [calls, kv, time, failed]
