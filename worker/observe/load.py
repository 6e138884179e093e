"""How full the gates of this process are, asked when someone fetches the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
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
