"""The figures of one point of `bench agents`, from what its window saw."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from worker.bench.agents_window import Window
from worker.bench.records import percentile
from worker.bench.roofline import Bound
from worker.bench.workloads import Workload

NOTES = """\
trajectories/hour: steps that ended in the window / steps of a trajectory, per hour.
re-prefilled: prompt tokens that had been computed before and were computed again, of all prompt tokens. What had been
  computed: the shared prefix at a trajectory's first call, else everything up to its last answer. A cache of whole
  blocks can't give back the rest of the last one, nor the last answer's last token: at most a block a call, left out
  here and kept in the records' re_prefilled_raw.
KV: what running sequences hold; what the cache keeps for others is not in it.
overhead: wall time in add() and complete() less the engine's and the wait for a turn, per step, waits for the
  interpreter included."""


def spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"mean": 0.0, "p50": 0.0, "p99": 0.0, "max": 0.0}
    return {
        "mean": statistics.fmean(values),
        "p50": statistics.median(values),
        "p99": percentile(values, 0.99),
        "max": max(values),
    }


def decoding(window: Window) -> float:
    """Sequences that decoded at once, on average."""
    return sum(call.decode for call in window.calls) / window.seconds


def figures(window: Window, workload: Workload) -> dict[str, Any]:
    calls, seconds = window.calls, window.seconds
    prompt, cached = sum(c.prompt for c in calls), sum(c.cached for c in calls)
    again = sum(max(0, c.cacheable - c.cached) for c in calls)
    raw = sum(max(0, c.known - c.cached) for c in calls)
    generated = sum(c.generated for c in calls)
    before, after = window.gate_before, window.gate_after
    samples = window.samples
    return {
        "trajectories_per_hour": len(calls) / workload.steps * 3600 / seconds,
        "steps": len(calls),
        "steps_per_second": len(calls) / seconds,
        "output_tokens_per_second": generated / seconds,
        "computed_prompt_tokens_per_second": (prompt - cached) / seconds,
        "cache_hit_rate": cached / prompt if prompt else 0.0,
        "re_prefilled": again / prompt if prompt else 0.0,
        "re_prefilled_raw": raw / prompt if prompt else 0.0,
        "kv_used": spread([s.kv_used for s in samples]),
        "running": spread([s.running for s in samples]),
        "engine_waiting": spread([s.waiting for s in samples]),
        "resident": spread([s.resident for s in samples]),
        "at_gate": spread([s.at_gate for s in samples]),
        "gate_waits": after.waited - before.waited,
        "gate_wait_seconds": after.waited_seconds - before.waited_seconds,
        "decoding_at_once": decoding(window),
        "queued_seconds": spread([c.queued for c in calls]),
        "ttft_seconds": spread([c.first for c in calls]),
        "decode_seconds": spread([c.decode for c in calls]),
        "tpot_seconds": spread([c.decode / (c.generated - 1) for c in calls if c.generated > 1]),
        "turn_seconds": spread([c.turn for c in calls]),
        "overhead_seconds": spread([c.overhead for c in calls]),
        "gpu_seconds": sum(c.gpu_seconds for c in calls),
        "failures": dict(window.failures),
        "window_seconds": seconds,
        "ramp_seconds": window.ramp_seconds,
        "ramped": window.ramped,
    }


def against(found: dict[str, Any], own: Bound, full: Bound) -> dict[str, Any]:
    """Percent of the roofline at the point's own batch, and at the batch that the KV memory would hold."""
    rate = found["trajectories_per_hour"]
    return {
        "roofline_percent": 100 * rate / own.per_hour,
        "roofline_full_percent": 100 * rate / full.per_hour,
        "roofline": own.shown,
        "roofline_full": full.shown,
    }


COLUMNS = (
    "mode", "in flight", "traj/h", "steps/s", "out tok/s", "prefill tok/s", "hit rate", "re-prefilled", "resident",
    "KV mean/max", "gate wait s", "TTFT mean/p99 s", "TPOT ms", "overhead p50/p99 ms", "failed", "roofline %",
)  # fmt: skip


def row(record: dict[str, Any]) -> tuple[str, ...]:
    f = record["figures"]
    ttft, kv, ours = f["ttft_seconds"], f["kv_used"], f["overhead_seconds"]
    waits = f["gate_wait_seconds"] / f["gate_waits"] if f["gate_waits"] else 0.0
    roofline = f"{f['roofline_percent']:.0f} ({f['roofline_full_percent']:.0f})" if "roofline_percent" in f else ""
    return (
        record["mode"],
        str(record["in_flight"]),
        f"{f['trajectories_per_hour']:.0f}",
        f"{f['steps_per_second']:.2f}",
        f"{f['output_tokens_per_second']:.0f}",
        f"{f['computed_prompt_tokens_per_second']:.0f}",
        f"{f['cache_hit_rate']:.3f}",
        f"{100 * f['re_prefilled']:.1f} %",
        f"{f['resident']['mean']:.1f}",
        f"{kv['mean']:.2f}/{kv['max']:.2f}",
        f"{waits:.1f}",
        f"{ttft['mean']:.2f}/{ttft['p99']:.2f}",
        f"{1000 * f['tpot_seconds']['mean']:.1f}",
        f"{1000 * ours['p50']:.1f}/{1000 * ours['p99']:.1f}",
        str(sum(f["failures"].values())),
        roofline,
    )


def table(records: Sequence[dict[str, Any]]) -> str:
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(row(record) for record in records)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
