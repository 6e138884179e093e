"""What admission by KV memory is for, tried with the real code on the simulated engine (`worker.bench.virtual_engine`).
Nothing here is a measurement."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from worker.adapters.engine import admission
from worker.bench.agents_figures import figures
from worker.bench.agents_window import Window
from worker.bench.virtual_agents import FACTS, Simulation
from worker.bench.virtual_engine import FINER_SPLITS
from worker.bench.workloads import W2, Lengths

MIXED = replace(W2, name="mixed", observed=Lengths(5.0, 1.6, 20, 9000))  # a few are several times as long as most


# One worker of a test run plays them: what the fixtures made is not made again.
pytestmark = pytest.mark.xdist_group("admission simulated")


def simulation(**changed: object) -> Simulation:
    return Simulation(**({"workload": W2, "speed": FINER_SPLITS, "window": 600.0, "expected": 48_519} | changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def best_plain() -> float:
    """Tokens a second at the best number in flight, 18; which one that is nobody knows beforehand."""
    return rate(simulation().point("plain", 18))


@pytest.fixture(scope="module")
def admitted() -> Window:
    return simulation().point("admitted", 64)


@pytest.fixture(scope="module")
def together() -> Window:
    """All begin at once, as after a worker's start with a full queue, and grow long at once."""
    return simulation(together=True, window=1500.0, ramp=60.0).point("admitted", 64)


def rate(window: Window) -> float:
    return float(figures(window, W2)["output_tokens_per_second"])


def again(window: Window) -> float:
    return float(figures(window, W2)["re_prefilled"])


def test_admission_does_as_well_as_the_best_number_in_flight(admitted: Window, best_plain: float) -> None:
    assert rate(admitted) > 0.98 * best_plain


def test_the_gpu_is_full_when_calls_wait(admitted: Window) -> None:
    waited = sum(call.turn > 0 for call in admitted.calls)
    assert waited > 100
    assert statistics.fmean(sample.kv_used for sample in admitted.samples) > 0.9


def test_hardly_anything_is_computed_again(admitted: Window, together: Window) -> None:
    assert again(admitted) < 0.001
    assert again(together) < 0.01


def test_all_beginning_together_costs_little(together: Window, best_plain: float) -> None:
    assert rate(together) > 0.93 * best_plain


def test_where_none_is_parked_all_beginning_together_thrashes(
    monkeypatch: pytest.MonkeyPatch, together: Window
) -> None:
    monkeypatch.setattr(admission.KvAdmission, "_park", lambda _: None)
    thrashing = simulation(together=True, window=900.0, ramp=60.0).point("admitted", 64)
    assert rate(thrashing) < 0.9 * rate(together)
    assert again(thrashing) > 0.03 > again(together)


def test_a_long_one_never_starves() -> None:
    window = simulation(workload=MIXED, window=900.0).point("admitted", 64)
    long = [call for call in window.calls if call.prompt > 70_000]
    assert len(long) > 20
    patient = max(call.turn for call in long if call.turn < 200)  # those that were parked wait for others to end
    assert patient < 60
    assert sum(call.turn >= 200 for call in long) < 0.02 * len(long)


def test_without_a_host_tier_hardly_anything_is_computed_again_either() -> None:
    window = simulation(facts=replace(FACTS, host_kv_tokens=0)).point("admitted", 64)
    assert again(window) < 0.005
    assert rate(window) > 340  # the best plain point, 12, makes 352; 16 computes nearly all again
