"""`bench agents`: agent trajectories through the real conversation and admission code; only the sandbox is replaced,
by the latencies that the workload states."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.adapters.engine.admission import Capacity, KvAdmission
from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.port import Engine
from worker.bench import agents_figures, records
from worker.bench.agents_modes import MODES, Admission, Free, Gated, Lockstep, Pace, Unlimited
from worker.bench.agents_window import TICK, Window, measure
from worker.bench.filler import Filler
from worker.bench.roofline import Gpu, ModelShape, bound
from worker.bench.workloads import Means, Workload, digest, means, plan

PLANNED = 512  # trajectories whose plans the digest covers


@dataclass(frozen=True, kw_only=True)
class Hardware:
    shape: ModelShape
    gpu: Gpu
    gpus: int = 1


@dataclass(kw_only=True)
class Points:
    """All points of a call: one engine, the same plans."""

    engine: Engine
    model: EngineModel
    filler: Filler
    workload: Workload
    seed: int = 0
    ramp: float = 240.0
    window: float = 120.0
    tick: float = TICK
    expected: int | None = None  #: tokens of a mean context, where admission begins; None: the plans'
    hardware: Hardware | None = None
    config: dict[str, Any] = field(default_factory=dict)  #: goes into every record as it is
    out: Path | None = None  #: directory for raw records
    records: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        plans = [plan(self.workload, self.seed, n) for n in range(PLANNED)]
        self.digest = digest(plans)
        self.means: Means = means(plans)

    def run(self, mode: str, in_flight: int) -> dict[str, Any]:
        """One point; its record. Raises ModelUnavailable when the engine dies."""
        if mode not in MODES:
            raise ValueError(f"{mode!r} is none of {MODES}")
        in_flight = 1 if mode == "one-at-a-time" else in_flight
        expected = self.expected or round(self.means.context)
        admission, model = self._admitted(expected) if mode == "admitted" else (Unlimited(), self.model)
        pace: Pace = Lockstep(in_flight) if mode == "lockstep" else Free()
        busy = self.engine.load()
        seen = measure(
            engine=self.engine,
            model=model,
            filler=self.filler,
            workload=self.workload,
            seed=self.seed,
            salt=f"{len(self.records)}:{mode}:{in_flight}",
            in_flight=in_flight,
            admission=admission,
            pace=pace,
            ramp=self.ramp,
            window=self.window,
            tick=self.tick,
        )
        done = self.engine.load()
        found = agents_figures.figures(seen, self.workload)
        found["engine_busy"] = _share(done.busy_seconds - busy.busy_seconds, done.idle_seconds - busy.idle_seconds)
        found |= self._roofline(seen, found, expected)
        record = {
            "benchmark": "agents",
            "mode": mode,
            "in_flight": in_flight,
            "workload": asdict(self.workload),
            "plans": self.digest,
            "seed": self.seed,
            "expected_context": expected,
            "mean_context": self.means.context,
            "engine": asdict(self.engine.facts),
            "config": self.config,
            "machine": records.machine(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "figures": found,
        }
        self.records.append(record)
        self._keep(record, seen)
        return record

    def _admitted(self, expected: int) -> tuple[Admission, EngineModel]:
        """The worker's gate with the engine's real capacity, and the model whose calls take turns behind it."""
        facts = self.engine.facts
        capacity = Capacity(gpu=facts.kv_tokens, context=facts.max_model_len, host=facts.host_kv_tokens)
        admission = KvAdmission(capacity, expected=expected)
        return Gated(admission), EngineModel(self.engine, self.model.counter, self.model.name, admission=admission)

    def _roofline(self, seen: Window, found: dict[str, Any], expected: int) -> dict[str, Any]:
        if self.hardware is None:
            return {}
        own = max(1.0, agents_figures.decoding(seen))
        held = max(1.0, (self.engine.facts.kv_tokens - self.workload.shared) / max(1, expected - self.workload.shared))
        of = [
            bound(self.hardware.shape, self.hardware.gpu, self.means, batch=batch, gpus=self.hardware.gpus)
            for batch in (own, held)
        ]
        return agents_figures.against(found, *of)

    def _keep(self, record: dict[str, Any], seen: Window) -> None:
        """The record, and a line for each call and each look at the engine."""
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "points.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        name = f"{record['workload']['name']}-{record['mode']}-{record['in_flight']}"
        with (self.out / f"calls-{len(self.records):02d}-{name}.jsonl").open("w", encoding="utf-8") as file:
            lines = [*map(asdict, seen.calls), *map(asdict, seen.samples)]
            file.writelines(json.dumps(line) + "\n" for line in lines)


def run(points: Points, modes: Sequence[str], in_flight: Sequence[int]) -> list[dict[str, Any]]:
    """Every mode at every number in flight, told as they end. Lines go to stderr, since they are no result."""
    for mode in modes:
        for count in (1,) if mode == "one-at-a-time" else in_flight:
            record = points.run(mode, count)
            found = record["figures"]
            print(
                f"{mode} at {record['in_flight']}: {found['trajectories_per_hour']:.0f} trajectories/hour, "
                f"re-prefilled {100 * found['re_prefilled']:.1f} %, plans {points.digest[:16]}, "
                f"ramp {found['ramp_seconds']:.0f} s"
                + ("" if found["ramped"] else " (not all had done two steps)")
                + (f", failures {found['failures']}" if found["failures"] else ""),
                file=sys.stderr,
                flush=True,
            )
    return points.records


def report(points: Points) -> str:
    lines = [agents_figures.table(points.records), "", f"Plans of all points: sha256 {points.digest}."]
    if points.hardware is not None and points.records:
        best = max(points.records, key=lambda record: float(record["figures"]["trajectories_per_hour"]))
        where = f"{best['mode']}, {best['in_flight']} in flight"
        lines += [
            f"Roofline of the best point ({where}): at its own batch, then (in brackets above) at what the KV holds.",
            best["figures"]["roofline"],
            best["figures"]["roofline_full"],
        ]
    return "\n".join((*lines, agents_figures.NOTES))


def _share(busy: float, idle: float) -> float:
    return busy / (busy + idle) if busy + idle else 0.0
