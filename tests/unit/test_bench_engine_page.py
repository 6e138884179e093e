"""The engine's page says what the raw records say."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from worker.bench import engine_page, records


def test_the_page_is_made_from_the_raw_records() -> None:
    kept = json.loads((records.DIRECTORY / "engine.json").read_text(encoding="utf-8"))
    assert kept == [asdict(figure) for figure in engine_page.figures(engine_page.points())]
    page = (records.DIRECTORY / "engine.md").read_text(encoding="utf-8")
    assert all(remark in page for remark in engine_page.REMARKS)


def point(mode: str, per_hour: float) -> dict[str, Any]:
    return {
        "benchmark": "agents",
        "mode": mode,
        "in_flight": 64,
        "workload": {"name": "W2"},
        "config": {},
        "at": "2026-11-26T00:00:00",
        "figures": {"trajectories_per_hour": per_hour, "re_prefilled": 0.031},
    }


def test_an_admitted_point_is_held_against_the_best_plain_one_of_its_own_call() -> None:
    raw = [
        ("call-1", point("plain", 10)),
        ("call-1", point("plain", 20)),
        ("call-1", point("admitted", 25)),
        ("call-2", point("admitted", 99)),
    ]
    goals = [(f.figure, f.value, f.bound, f.goal, f.met) for f in engine_page.figures(raw) if f.goal is not None]
    assert goals == [
        ("W2 admitted, 64 in flight (call-1): computed again", 3.1, "≤", 3.0, False),
        ("W2 admitted, 64 in flight (call-2): computed again", 3.1, "≤", 3.0, False),
        ("W2 admitted, 64 in flight (call-1): times the best plain point of its call", 1.25, "≥", 1.3, False),
    ]
