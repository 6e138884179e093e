"""Profiles: every default has a reason, and the arithmetic agrees with what was measured."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from worker.errors import SettingsError
from worker.profiles import Default, catalogue, plans, profile
from worker.profiles.memory import GIB, H100_GIB, H200_GIB, kv_tokens, refusal, weight_bytes


@pytest.mark.parametrize("key", ["small-24b", "small-24b-4bit", "large-123b"])
def test_a_profile_starts_an_engine_and_says_what_is_unproven(key):
    chosen = profile(key)
    assert chosen.engine().max_model_len in {16_384, 32_768}
    assert any(words.startswith("kv_cache_dtype: accuracy") for words in chosen.unproven)
    assert chosen.engine().tensor_parallel in chosen.gpus


def test_a_default_without_a_reason_is_none():
    with pytest.raises(ValidationError, match="reason"):
        Default(value=1)


def test_licences_are_those_of_the_models():
    found = {key: chosen.licence for key, chosen in catalogue().items()}
    assert found["small-24b"] == found["small-24b-4bit"] == "Apache 2.0"
    assert "modified MIT" in found["large-123b"]
    assert "USD 20 million a month" in found["large-123b"]


def test_single_settings_override_defaults_and_unknown_ones_are_named():
    engine = profile("small-24b").engine({"kv_cache_dtype": "auto", "max_num_seqs": 8})
    assert (engine.kv_fp8, engine.max_num_seqs, engine.max_model_len) == (False, 8, 32_768)
    with pytest.raises(SettingsError, match=r"kv_dtype.*kv_cache_dtype"):
        profile("small-24b").engine({"kv_dtype": "auto"})
    with pytest.raises(SettingsError, match="speculative_decoding"):
        profile("small-24b").engine({"speculative_decoding": True})
    with pytest.raises(SettingsError, match="known: small-24b"):
        profile("small-25b")


@pytest.mark.parametrize(("dtype", "measured"), [("auto", 314_720), ("fp8", 629_440)])
def test_the_arithmetic_agrees_with_the_measured_kv_capacity_of_an_h100(dtype, measured):
    small = profile("small-24b")
    computed = kv_tokens(small.shape, small.engine({"kv_cache_dtype": dtype}), gib=H100_GIB, gpus=1)
    assert computed == pytest.approx(measured, rel=0.001)


def test_the_arithmetic_promises_no_more_than_two_h200_were_measured_to_hold_of_the_large_model():
    large = profile("large-123b")
    computed = kv_tokens(large.shape, large.engine(), gib=H200_GIB, gpus=2)
    assert 0.96 * 794_576 < computed <= 794_576


def test_weights_that_do_not_fit_leave_no_tokens():
    large = profile("large-123b")
    assert weight_bytes(large.shape, "fp8") > 119 * GIB
    assert kv_tokens(large.shape, large.engine(), gib=H100_GIB, gpus=1) == 0
    assert "more GPUs" in refusal(large, large.engine(), gib=H100_GIB, gpus=1)


def test_a_profile_that_holds_fewer_than_four_runs_is_refused_with_what_would_fit():
    four_bit = profile("small-24b-4bit")
    card = 24_564 / 1024
    assert refusal(four_bit, four_bit.engine(), gib=card, gpus=1) == ""
    longer = refusal(four_bit, four_bit.engine({"max_model_len": 32_768}), gib=card, gpus=1)
    assert "a profile has to hold 4" in longer
    assert "a limit of 20,480 tokens a run" in longer
    bf16 = refusal(four_bit, four_bit.engine({"kv_cache_dtype": "auto"}), gib=card, gpus=1)
    assert "an FP8 KV cache" in bf16


def test_two_h100_are_for_two_small_workers_because_the_large_model_does_not_fit():
    small, large, answer = plans.two(H100_GIB)
    assert "5,700 W1 trajectories/h (2 x one H100, measured)" in small
    assert "refused" in large
    assert answer == "answer: small-24b, by memory"


def test_two_h200_hold_either_and_the_answer_says_what_is_not_known():
    _, large, answer = plans.two(H200_GIB)
    assert "computed" in large
    assert "5.3 times as many" in answer


def test_a_node_of_eight_is_divided_in_every_way_that_a_model_can_be():
    found = [line.partition(":")[0] for line in plans.node(H200_GIB)]
    assert found == ["1xTP8", "1xTP8", "2xTP4", "2xTP4", "4xTP2", "4xTP2", "8xTP1"]
