"""Plans, fillers and the roofline: what a benchmark reckons with before it runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.tokens import TokenCounter
from worker.bench.filler import Filler
from worker.bench.roofline import Gpu, ModelShape, bound, shape_of
from worker.bench.workloads import W1, W2, Lengths, Means, digest, means, plan
from worker.errors import SettingsError


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter()


@pytest.fixture(scope="module")
def filler(counter) -> Filler:
    return Filler(counter)


def test_a_plan_is_the_same_each_time_and_another_for_another_seed_or_number():
    assert plan(W1, 1, 7) == plan(W1, 1, 7)
    assert len({plan(W1, seed, number).steps for seed in range(3) for number in range(3)}) == 9
    one = [plan(W1, 1, n) for n in range(8)]
    assert digest(one) == digest([plan(W1, 1, n) for n in range(8)])
    assert digest(one) != digest([plan(W1, 2, n) for n in range(8)])
    assert digest(one) != digest(one[:7])


@pytest.mark.parametrize("workload", [W1, W2])
def test_plans_keep_their_workload(workload):
    for number in range(50):
        one = plan(workload, 3, number)
        assert len(one.steps) == workload.steps
        assert all(workload.generated.low <= step.generated <= workload.generated.high for step in one.steps)
        assert all(workload.observed.low <= step.observed <= workload.observed.high for step in one.steps)
        assert all(0 <= step.tool_seconds <= workload.tool_max for step in one.steps)
        last = one.steps[-1]
        assert one.prompts()[-1] + last.generated + last.observed < workload.max_model_len


def test_means_are_those_of_the_notes():
    assert means(plan(W1, 0, n) for n in range(300)).context == pytest.approx(9_300, rel=0.06)
    assert means(plan(W2, 0, n) for n in range(300)).context == pytest.approx(47_000, rel=0.06)


def test_means_by_hand():
    small = replace(W1, shared=10, own=20, steps=2, generated=Lengths(0, 0, 8, 8), observed=Lengths(0, 0, 40, 40))
    # prompts 30 and 78; contexts 34 and 82; new: 20 own + 40 observed
    assert means([plan(small, 0, 0)]) == Means(context=58, new=60, generated=16, decode_context=58)


def test_a_filler_has_the_tokens_asked_for_and_differs_by_key(counter, filler):
    for tokens in (1, 2, 30, 1000, 5000):
        assert abs(counter.text(filler.text(tokens, "a", tokens)) - tokens) <= 1
    assert filler.text(50, 1, 2) == filler.text(50, 1, 2)
    assert filler.text(50, 1, 2) != filler.text(50, 1, 3)


def test_a_bound_by_hand():
    shape = ModelShape(layers=10, heads=4, kv_heads=2, head_dim=50, multiplied=1_000_000, weight_bytes=1, kv_fp8=True)
    gpu = Gpu(name="g", fp8=1e9, bf16=5e8, bandwidth=1e8)
    work = Means(context=250, new=100, generated=200, decode_context=300)
    found = bound(shape, gpu, work, batch=4)
    # 100 x (2e6 + 4 x 10 x 4 x 50 x 250 = 2e6) / 1e9; 200 x 1e6 / (1e8 x 4); 200 x 300 x (2 x 10 x 2 x 50 = 2000) / 1e8
    assert (found.prefill, found.weights, found.kv) == pytest.approx((0.4, 0.5, 1.2))
    assert found.per_hour == pytest.approx(3600 / 2.1)
    assert "0.4000 s" in found.shown
    assert "1,714 trajectories/hour" in found.shown
    assert bound(shape, gpu, work, batch=4, gpus=2).seconds == pytest.approx(1.05)
    assert bound(replace(shape, weight_bytes=2), gpu, work, batch=4).prefill == pytest.approx(0.8)


def test_the_shape_of_devstral_small_2_from_either_format(tmp_path):
    mistral = {
        "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 32768, "n_heads": 32, "n_kv_heads": 8,
        "vocab_size": 131072, "quantization": {"qformat_weight": "fp8_e4m3"},
    }  # fmt: skip
    transformers = {
        "text_config": {
            "hidden_size": 5120, "num_hidden_layers": 40, "head_dim": 128, "intermediate_size": 32768,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 131072,
        },
        "quantization_config": {"quant_method": "fp8"},
    }  # fmt: skip
    found = []
    for name, data in (("params", mistral), ("config", transformers)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
        found.append(shape_of(tmp_path / name, kv_cache_dtype="auto"))
    assert found[0] == found[1]
    # 40 x (5120 x 128 x (2 x 32 + 2 x 8) + 3 x 5120 x 32768) + 5120 x 131072
    assert found[0].multiplied == 22_900_899_840
    assert found[0].weight_bytes == 1
    assert found[0].kv_per_token == 160 * 1024
    with pytest.raises(SettingsError, match=r"neither params\.json nor config\.json"):
        shape_of(tmp_path, kv_cache_dtype="auto")
