"""docs/benchmarks/engine.json and its page, made from the raw records of the calls on GPU hosts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from worker.bench import records
from worker.bench.records import Figure

RAW = records.DIRECTORY / "engine"
COMMAND = "devstral-fix bench agents --dummy-weights"
_ABOUT = """\
One H100 80 GB each, vLLM 0.25.1, Devstral Small 2's full shape with FP8 and random weights, FP8 KV cache: speeds are
right, text is noise, and nothing here says anything about quality."""
_WINDOWS = """\
Windows are 30 to 100 s, not yet the 120 s that a final point takes; calls have engines of their own, so goals that
compare points are judged only where both stand in one call (`docs/benchmarks/engine/` has the raw records)."""
_MISSING = """\
Not measured yet: `bench serve` beside bare vLLM, lockstep and one at a time, the whole plain sweep of W2, the 123B on
two GPUs, our overhead with 64 trajectories of 100,000 tokens."""
REMARKS = (_ABOUT, _WINDOWS, _MISSING)


def points() -> list[tuple[str, dict[str, Any]]]:
    """(call, record) of all raw records, oldest first."""
    found = []
    for path in sorted(RAW.glob("*.jsonl")):
        found += [(path.stem, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def figures(raw: Iterable[tuple[str, dict[str, Any]]]) -> list[Figure]:
    """Trajectories per hour and the share computed again, of every point."""
    made = []
    for call, record in raw:
        found, tier = record["figures"], record["config"].get("kv_offloading_gib")
        name = f"{record['workload']['name']} {record['mode']}, {record['in_flight']} in flight"
        name += f"{f', host tier {tier} GiB' if tier else ''} ({call[-6:]})"
        rate, again = found["trajectories_per_hour"], 100 * found["re_prefilled"]
        for what, value, unit, goal in (
            ("trajectories/hour", rate, "/h", None),
            ("computed again", again, "% of prompt tokens", _most_again(record)),
        ):
            made.append(
                Figure(
                    figure=f"{name}: {what}",
                    value=round(value, 2),
                    unit=unit,
                    goal=goal,
                    met=None if goal is None else value <= goal,
                    command=COMMAND,
                    machine=f"one H100 80 GB; {record['machine']}",
                    date=record["at"][:10],
                )
            )
    return made


def _most_again(record: dict[str, Any]) -> float | None:
    """The goal for an admitted point, in percent."""
    if record["mode"] != "admitted":
        return None
    return 1.0 if record["workload"]["name"] == "W1" and record["in_flight"] <= 48 else 3.0


def main() -> None:
    made = figures(points())
    records.write("engine", made, remarks=REMARKS)
    print(records.table(made))


if __name__ == "__main__":
    main()
