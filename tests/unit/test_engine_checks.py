"""What an engine is refused for, and what the refusal says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.adapters.engine.checks import Expected, Resolved, Scaling, check, stated_scaling
from worker.adapters.engine.shapes import SHAPES, kv_bytes_per_token, parameters, write_model
from worker.errors import SettingsError

SCALING = Scaling(beta=0.1, original=8192)
RESOLVED = Resolved(
    architecture="MistralForCausalLM",
    config_format="mistral",
    attention_scaling=SCALING,
    max_model_len=32_768,
    kv_tokens=314_720,
    kv_dtype="auto",
    tokenizer_version=13,
)
EXPECTED = Expected(attention_scaling=SCALING, max_model_len=32_768, run_tokens=32_768)


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [
        ({}, {}),
        ({"architecture": "Ministral3ForCausalLM"}, {}),
        ({"attention_scaling": None}, {"attention_scaling": None}),
        ({"max_model_len": 262_144}, {}),
        ({"kv_tokens": 4 * 32_768}, {}),
        ({"tokenizer_version": 15}, {}),
    ],
)
def test_passes(resolved: dict[str, Any], expected: dict[str, Any]) -> None:
    check(replace(RESOLVED, **resolved), replace(EXPECTED, **expected))


@pytest.mark.parametrize(
    ("resolved", "expected", "words"),
    [
        ({"architecture": "LlamaForCausalLM"}, {}, ("takes the model for LlamaForCausalLM", "config format mistral")),
        (
            {"attention_scaling": None},
            {},
            ("lost the model's attention scaling (beta 0.1 past 8192 tokens)", "config_format=mistral", '"beta": 0.1'),
        ),
        (
            {"attention_scaling": Scaling(beta=0.1, original=4096)},
            {},
            ("another attention scaling (beta 0.1 past 4096 tokens)",),
        ),
        ({}, {"attention_scaling": None}, ("do not ask for it",)),
        ({"max_model_len": 16_384}, {}, ("16,384", "32,768", "lower the profile's")),
        (
            {"kv_tokens": 100_000},
            {},
            ("holds 100,000 tokens, 3 runs", "4 (131,072)", "24,576 tokens a run", "FP8", "2 times"),
        ),
        ({"tokenizer_version": 11}, {}, ("version v11", "v13")),
    ],
)
def test_refused(resolved: dict[str, Any], expected: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as refused:
        check(replace(RESOLVED, **resolved), replace(EXPECTED, **expected))
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize("resolved", [{"kv_tokens": 100_000, "kv_dtype": "fp8"}, {"kv_tokens": 60_000}])
def test_a_smaller_kv_cache_is_not_offered_where_it_would_not_do(resolved: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        check(replace(RESOLVED, **resolved), EXPECTED)
    assert "FP8" not in str(refused.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError, match=r"LlamaForCausalLM.*v11"):
        check(replace(RESOLVED, architecture="LlamaForCausalLM", tokenizer_version=11), EXPECTED)


@pytest.mark.parametrize("files", ["mistral", "hf"])
def test_scaling_is_read_from_the_models_files(tmp_path: Path, files: Any) -> None:
    expected = Scaling(beta=0.1, original=4096)
    assert stated_scaling(write_model(tmp_path / "scaled", "tiny-scaled", files=files)) == expected
    assert stated_scaling(write_model(tmp_path / "plain", "tiny", files=files)) is None


def test_scaling_of_a_model_with_vision_is_the_inner_one(tmp_path: Path) -> None:
    rope = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8192}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"rope_parameters": rope}}))
    stated = stated_scaling(tmp_path)
    assert stated == SCALING
    assert list(stated.override) == ["text_config"]


def test_no_model_directory(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="neither params"):
        stated_scaling(tmp_path)


@pytest.mark.parametrize(
    ("shape", "billions", "kv_kib"),
    [("small-24b", 23.6, 160), ("large-123b", 125.0, 352)],
)
def test_shapes_are_as_large_as_their_models(shape: str, billions: float, kv_kib: int) -> None:
    assert parameters(SHAPES[shape]) / 1e9 == pytest.approx(billions, abs=0.05)
    one = SHAPES[shape]
    size = {"layers": one.layers, "kv_heads": one.kv_heads, "head_dim": one.head_dim}
    assert kv_bytes_per_token(**size, fp8=False) == kv_kib * 1024 == 2 * kv_bytes_per_token(**size, fp8=True)


def test_the_tiny_model_is_small_and_its_vocabulary_is_one_of_version_13(tmp_path: Path) -> None:
    from agent.tekken import load

    directory = write_model(tmp_path, "tiny")
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 2e6
    tekken = load(directory / "tekken.json", "").tokenizer
    assert tekken.n_words == 8192
    text = "def f(x):\n    return 'é' * 3\n"
    assert tekken.decode(tekken.encode(text, bos=False, eos=False)) == text
    assert tekken.get_special_token("[TOOL_CALLS]") == 9
