"""docs/benchmarks/engine.json and its page, made from the raw records of the calls on GPU hosts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from worker.bench import records
from worker.bench.records import Figure

RAW = records.DIRECTORY / "engine"
_ABOUT = """\
vLLM 0.25.1, the full shapes of Devstral Small 2 (one H100 80 GB) and Devstral 2 (two H200, tensor parallel 2) with
FP8 and random weights, FP8 KV cache: speeds are right, text is noise, and nothing here says anything about quality.
Goals that compare points are judged within one call, on one engine; a call's plain points are not a whole sweep."""
_WINDOWS = """\
Windows: 30 to 100 s in calls 1 to 6, 40 to 120 s since. A window counts steps: 467 in the plain W1 point of call
10, 121 in the admitted W2 point of call 9, so rates are good to about 5 % and 9 %. Answers differ in length by
chance, too: where two W2 points are close, tokens a second say more than steps."""
_W2 = """\
W2 misses 1.3 times the best plain point; calls 9 and 11 did not beat it at all. They are the first with a whole
choice of plain points and a host tier: 12 trajectories hold 12 x 42,500 + 6,000 = 516,000 of 629,440 tokens, so
nothing is lost without admission. Call 9: 309 tokens/s admitted (12.1 decode at once, 39.2 ms a token) and 304
plain at 12 (9.9, 32.6 ms); the rates, 45.4 and 48.7, differ by the lengths of their answers (306 and 281 tokens).
Call 11: plain at 16 made 380 tokens/s (13.0 decode at once, 34.1 ms), admitted 349 (11.7, 33.6 ms), with 92 and 90
% of the GPU's memory in use and contexts of 49,900 and 52,400 tokens: a call waits 4.5 s for its turn. Why
fewer decode at once was found in a simulation, and mended since: see below. The host's tier makes 16 harmless (0.4
% computed again). Admission guards against too many (plain 24: 2.5 % computed again, 6.2 s in the engine's queue;
without a host tier plain 16 computed 85 % again, call 5); where all fit it costs. A token's time grows with the
sequences that decode (27.1 ms at 9.9, 34.1 at 13.0), so 1.3 times plain's best, 79 an hour, is nearly the roofline
at full memory, 87.

Why W2 decodes at 55 % of its roofline: of 39 ms a token, attention takes 24 by itself (FlashAttention 3 alone, 12
sequences of 48,000 tokens in the mean, mixed lengths, 40 layers: `engine/2026-11-27-splits.json`). It gives each
multiprocessor about one piece of a context, so some do two while others do none. When its scheduler was told of 660
multiprocessors more than there are (`sm_margin` -660, decode steps only), pieces were finer: 17.6 ms, results equal
to 0.002. Call 11 ran with that change in vLLM's own file: W2 admitted 51.4 instead of 45.4, plain at 12 57.4
instead of 48.7. The service does not make that change yet. With 64 sequences of 9,500 (W1) it is 19.2 instead of
21.1 ms."""
_W1 = """\
W1 with 512 in flight is 1.01 times plain at 96 (call 10), not 1.05: 1,575 tokens/s against 1,530. Both fill the
GPU's memory (89 and 83 %), and a host tier makes 96 harmless (0.2 % computed again); without one it was 1,320 (call
1), and plain at 128 drops to 2,214 (call 3). The means look back at 1,024 calls since call 7, and residents no
longer swing. 2,500, the aim, is passed. At 512 there is 1.00 of its own best among call 10's admitted points.
Admitted at 48 has half as many in flight as plain at 96, so 0.78 times compares loads, not ways: nothing is held
back there, and nothing computed again."""
_SIMULATED = """\
All admitted points of calls 1 to 11 are of the rule before decision 29, which a simulated engine led to
(`devstral-fix bench agents --simulated`: the real admission code in virtual time over a model of vLLM's scheduler;
it makes seven plain points' tokens/s within 10 %, but thrashes less than vLLM did without a host tier). Simulated,
not measured, on the engine of call 9: W2 admitted at 64 makes 339 tokens/s by the new rule and 313 by the old one,
plain 334 at 16, 336 at 18 and 243 at 24; where all trajectories begin together 327 and 191, plain 307 at 12 and
250 at 16. W1 at 512: 1,519 and 1,537, plain 1,516 at 96.

The new rule on the real vLLM, calls 13 and 14 (the service as it is, windows of 50 s, so good to about 13 % on
W2): W2 admitted at 64 made 295 and 328 tokens/s, with 12.4 and 13.6 decoding at once out of 18 residents, and
plain at 16 made 293 with 12.1: 1.01 times in the same call, 0.97 in trajectories, so no difference that such
windows can tell, and 0.4 and 0.3 % computed again (0.84 and 0.93 in trajectories by the old rule). The second is
another engine's, with no plain point beside it. W1 with 512 in flight made 1,266 tokens/s, 0.89 of plain's 1,422
at 96 (0.95 in trajectories), with 118 residents and 1.3 % computed again; call 10's, by the old rule, made 1.03.
Both ramps of 40 s ended before each resident had done two steps. It lets in more short contexts than this GPU
serves best, it seems: a call waited 4.3 s for its turn and 3.4 s in the engine's queue (plain: 1.7 s). Plain at 16
(W2) had done two steps in 75 s in part only, too. At 48 nothing waits and nothing is computed again. Call 12 was a
first look: a third of the memory (18 GiB, 30 GiB behind it), no torch.compile, windows of 21 and 25 s. Plain at
36, about what fits, made 983 tokens/s; admitted at 96 made 1,000, with 1.6 % computed again."""
_LARGE = """\
Devstral 2's shape beside the table published for it with SGLang on 8 AMD GPUs (tensor parallel 8; 44.75, 783 and
2,177 output tokens/s at 1, 16 and 100 at once): other hardware and other software, so it shows no more than the
scale. A GPU made 25, 241 and 879 tokens/s here, 6, 98 and 272 there. There were 3, 32 and 150 requests here."""
_MISSING = """\
Call 9's machine was lost after two points, so its plain sweep ends at 12. Not measured: W2 plain at 8, 16 and 24
without finer splits (16 since, in call 13), bf16 KV cache, W1 and W2 with the 123B shape and its `bench serve`
beside bare vLLM. Our overhead was 2.7 to 5.8 ms a step on average in calls 9 to 11, up to 8.8 ms in call 14 with
512 in flight; [with 64 trajectories of 100,000 tokens](agent.md) it was measured apart."""
REMARKS = (_ABOUT, _WINDOWS, _W2, _W1, _SIMULATED, _LARGE, _MISSING)

_CHANGED = {"call-11": ", finer splits", "call-12": ", a third of the memory"}  # what was not the service as it is
_TIMES_PLAIN = {"W1": 1.05, "W2": 1.3}


def points() -> list[tuple[str, dict[str, Any]]]:
    """(call, record) of all raw records, oldest first."""
    found = []
    for path in sorted(RAW.glob("*.jsonl")):
        found += [(path.stem[11:], json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
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
    how = _CHANGED.get(call, "")
    return f"{name}{f', host tier {tier} GiB' if tier else ''}{how} ({call})"


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
