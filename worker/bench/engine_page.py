"""docs/benchmarks/engine.json and its page, made from the raw records of the calls on GPU hosts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from worker.bench import records
from worker.bench.records import Figure

RAW = records.DIRECTORY / "engine"
_ABOUT = """\
vLLM 0.25.1, the full shapes of Devstral Small 2 (one H100 80 GB) and Devstral 2 (two H200, tensor parallel 2) with FP8
and random weights, FP8 KV cache: speeds are right, text is noise, and nothing here says anything about quality. Goals
that compare points are judged within one call, on one engine; a call's plain points are not a whole sweep."""
_WINDOWS = """\
Windows: 30 to 100 s in calls 1 to 6; in call 7 120 s for admitted points and 60 s for plain ones. A window counts
steps: 471 in the plain W1 point of call 7, 119 in its W2 point, so rates are good to about 5 % and 9 %."""
_W2 = """\
Why W2 decodes at 55 % of its roofline: of 39 ms a token, attention takes 22 to 24 by itself (FlashAttention 3 alone, 12
sequences of 48,000 tokens, 40 layers: `engine/2026-11-26-attention.json`). With an FP8 cache it reads 2.1 TB/s, with a
bf16 cache 3.0 of the 3.35 that the roofline allows. It did as badly with 24 sequences of 24,000, and read 2.6 TB/s with
16 of 36,000 or 48 of 12,000: as if each sequence and KV head were one block of work, whole waves of which have to fill
132 multiprocessors. The number of splits changed nothing."""
_W1 = """\
W1 with 512 in flight was slower in call 7 than in call 6: residents swung between 104 (the median) and 187. The likely
cause: admission's mean looked back at 64 calls only, so that a wave of young trajectories let in a larger one. It looks
back at 1,024 since; that was not yet measured on a GPU. KV blocks of 128 tokens (call 7) instead of 16 made no
difference beyond the noise."""
_LARGE = """\
Devstral 2's shape beside the table published for it with SGLang on 8 AMD GPUs (tensor parallel 8; 44.75, 783 and 2,177
output tokens/s at 1, 16 and 100 at once): other hardware and other software, so it shows no more than the scale. A GPU
made 25, 241 and 879 tokens/s here, 6, 98 and 272 there. There were 3, 32 and 150 requests here."""
_MISSING = """\
Not measured yet: W2 admitted beside a whole plain sweep on one engine, lockstep and one at a time, bf16 KV cache, W1
and W2 with the 123B shape and its `bench serve` beside bare vLLM. Our overhead was 2.6 to 5.1 ms a step on average in
call 7, with mean contexts of 9,500 and 48,500; since then part of what it was made of is gone, and it was measured
[with 64 trajectories of 100,000 tokens](agent.md)."""
REMARKS = (_ABOUT, _WINDOWS, _W2, _W1, _LARGE, _MISSING)

_TIMES_PLAIN = {"W1": 1.05, "W2": 1.3}


def points() -> list[tuple[str, dict[str, Any]]]:
    """(call, record) of all raw records, oldest first."""
    found = []
    for path in sorted(RAW.glob("*.jsonl")):
        found += [(path.stem[-6:], json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def figures(raw: Sequence[tuple[str, dict[str, Any]]]) -> list[Figure]:
    made: list[Figure] = []
    for call, record in raw:
        made += _KINDS[record["benchmark"]](call, record)
    return made + list(_against_plain([one for one in raw if one[1]["benchmark"] == "agents"]))


def _figure(
    name: str,
    value: float,
    unit: str,
    command: str,
    record: dict[str, Any],
    *,
    goal: float | None = None,
    bound: Literal["≤", "≥"] = "≤",
) -> Figure:
    met = None if goal is None else (value <= goal if bound == "≤" else value >= goal)
    gpus = (record.get("engine") or {}).get("gpus", 1)
    return Figure(
        figure=name,
        value=round(value, 3),
        unit=unit,
        goal=goal,
        met=met,
        command=f"devstral-fix bench {command} --dummy-weights",
        machine="one H100 80 GB" if gpus == 1 else f"{gpus} H200",
        date=record.get("at", "2026-11-26")[:10],
        bound=bound,
    )


def _point(call: str, record: dict[str, Any]) -> str:
    tier = record["config"].get("kv_offloading_gib")
    name = f"{record['workload']['name']} {record['mode']}, {record['in_flight']} in flight"
    return f"{name}{f', host tier {tier} GiB' if tier else ''} ({call})"


def _agents(call: str, record: dict[str, Any]) -> Iterable[Figure]:
    """Trajectories per hour and the share computed again."""
    found, name = record["figures"], _point(call, record)
    yield _figure(f"{name}: trajectories/hour", found["trajectories_per_hour"], "/h", "agents", record)
    again, goal = 100 * found["re_prefilled"], _most_again(record)
    yield _figure(f"{name}: computed again", again, "% of prompt tokens", "agents", record, goal=goal)


def _most_again(record: dict[str, Any]) -> float | None:
    """The goal for an admitted point, in percent."""
    if record["mode"] != "admitted":
        return None
    return 1.0 if record["workload"]["name"] == "W1" and record["in_flight"] <= 48 else 3.0


def _against_plain(raw: Sequence[tuple[str, dict[str, Any]]]) -> Iterable[Figure]:
    """Admitted points over the best plain one of the same call and workload."""
    for call, record in raw:
        workload = record["workload"]["name"]
        plain = [
            other["figures"]["trajectories_per_hour"]
            for where, other in raw
            if where == call and other["mode"] == "plain" and other["workload"]["name"] == workload
        ]
        if record["mode"] == "admitted" and plain:
            times = record["figures"]["trajectories_per_hour"] / max(plain)
            name = f"{_point(call, record)}: times the best plain point of its call"
            yield _figure(name, times, "times", "agents", record, goal=_TIMES_PLAIN[workload], bound="≥")


def _serve(call: str, record: dict[str, Any]) -> Iterable[Figure]:
    gpus = record["engine"]["gpus"]
    name = f"serve, {'24B' if gpus == 1 else '123B'}, {record['max_concurrency']} at once ({call})"
    yield _figure(f"{name}: output", record["output_throughput"], "tokens/s", "serve", record)
    yield _figure(f"{name}: median TTFT", record["ttft_ms"]["median"], "ms", "serve", record)
    yield _figure(f"{name}: median TPOT", record["tpot_ms"]["median"], "ms", "serve", record)
    if "of_bare" in record:
        yield _figure(f"{name}: of bare vLLM", record["of_bare"], "times", "serve --bare", record, goal=0.97, bound="≥")


def _constrained(call: str, record: dict[str, Any]) -> Iterable[Figure]:
    name = f"constrained to a tool's call, {record['max_concurrency']} at once ({call})"
    yield _figure(f"{name}: time a token, of free decoding's", record["tpot_ratio"], "times", "constrained", record)


_KINDS = {"agents": _agents, "serve": _serve, "constrained": _constrained}


def main() -> None:
    made = figures(points())
    records.write("engine", made, remarks=REMARKS)
    print(records.table(made))


if __name__ == "__main__":
    main()
