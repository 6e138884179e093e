"""What an engine turned out to be, against what the model's files and the profile ask for.

A model that is read wrongly still answers, only worse; here it is refused instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import SettingsError

ARCHITECTURES = (
    "MistralForCausalLM",  # params.json
    "Ministral3ForCausalLM",  # config.json; vLLM runs both by the same class
    "PixtralForConditionalGeneration",  # params.json with vision
    "Mistral3ForConditionalGeneration",  # config.json with vision
)
TOKENIZER_VERSION = 13
RUNS = 4
"""Fewer trajectories than this do not keep an engine busy while their tools run."""

_ROUND = 1024


@dataclass(frozen=True)
class Scaling:
    """Queries at position p grow by 1 + beta · ln(1 + ⌊p / original⌋)."""

    beta: float
    original: int  #: tokens

    def __str__(self) -> str:
        return f"beta {self.beta:g} past {self.original} tokens"

    @property
    def override(self) -> dict[str, Any]:
        """vLLM's `hf_overrides` that bring it back where the reader lost it (a text model's config.json)."""
        return {"llama_4_scaling": {"beta": self.beta, "original_max_position_embeddings": self.original}}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What the engine made of model and profile."""

    architecture: str
    config_format: str
    attention_scaling: Scaling | None
    max_model_len: int  #: tokens
    kv_tokens: int
    kv_dtype: str
    tokenizer_version: int


@dataclass(frozen=True, kw_only=True)
class Expected:
    attention_scaling: Scaling | None  #: as the model's files state it: `stated_scaling`
    max_model_len: int  #: tokens, the profile's
    run_tokens: int  #: what one run may hold at its end
    architectures: tuple[str, ...] = ARCHITECTURES
    runs: int = RUNS


def check(resolved: Resolved, expected: Expected) -> None:
    """Raises SettingsError with everything that is wrong."""
    found = (
        _architecture(resolved, expected),
        _scaling(resolved, expected),
        _context(resolved, expected),
        _kv_memory(resolved, expected),
        _tokenizer(resolved),
    )
    wrong = [words for words in found if words]
    if wrong:
        raise SettingsError("; ".join(wrong))


def resolve(vllm_config: Any, *, kv_tokens: int, tokenizer_version: int) -> Resolved:
    """Of a VllmConfig. In vLLM 0.25.1 and 0.32.0 alike the class `MistralAttention` takes its scaling from
    `model_config.hf_text_config.llama_4_scaling` (for a model with vision that is the inner configuration), a mapping
    of `beta` and `original_max_position_embeddings`; without the attribute it scales nothing."""
    model = vllm_config.model_config
    scaling = getattr(model.hf_text_config, "llama_4_scaling", None)
    return Resolved(
        architecture=model.architecture,
        config_format=str(model.config_format),
        attention_scaling=_mapped(scaling),
        max_model_len=model.max_model_len,
        kv_tokens=kv_tokens,
        kv_dtype=str(vllm_config.cache_config.cache_dtype),
        tokenizer_version=tokenizer_version,
    )


def stated_scaling(directory: Path) -> Scaling | None:
    """What the model's own files say: params.json where there is one, else config.json. A beta of 0 is none."""
    params, config = directory / "params.json", directory / "config.json"
    if params.is_file():
        return _mapped(json.loads(params.read_text(encoding="utf-8")).get("llama_4_scaling"))
    if not config.is_file():
        raise SettingsError(f"{directory} is no model directory: it has neither params.json nor config.json")
    content = json.loads(config.read_text(encoding="utf-8"))
    content = content.get("text_config") or content
    rope = content.get("rope_parameters") or {}
    return _mapped(content.get("llama_4_scaling") or rope | {"beta": rope.get("llama_4_scaling_beta")})


def _mapped(scaling: Mapping[str, Any] | None) -> Scaling | None:
    if not scaling or not scaling.get("beta"):
        return None
    return Scaling(float(scaling["beta"]), int(scaling["original_max_position_embeddings"]))


def _architecture(resolved: Resolved, expected: Expected) -> str:
    if resolved.architecture in expected.architectures:
        return ""
    return (
        f"the engine takes the model for {resolved.architecture} (config format {resolved.config_format}); the profile"
        f" is for {' or '.join(expected.architectures)}: check the model's directory, or use its own profile"
    )


def _scaling(resolved: Resolved, expected: Expected) -> str:
    have, want = resolved.attention_scaling, expected.attention_scaling
    if have == want:
        return ""
    if want is None:
        return f"the engine scales attention ({have}), and the model's files do not ask for it: remove the override"
    lost = "lost the model's attention scaling" if have is None else f"has another attention scaling ({have})"
    return (
        f"the engine {lost} ({want}), so its text gets worse past {want.original} tokens: use config_format=mistral"
        f" where the model has a params.json, else hf_overrides={json.dumps(want.override)}"
    )


def _context(resolved: Resolved, expected: Expected) -> str:
    if resolved.max_model_len >= expected.max_model_len:
        return ""
    return (
        f"the engine's context is {resolved.max_model_len:,} tokens, the profile's max_model_len"
        f" {expected.max_model_len:,}: lower the profile's, or use a model with a longer one"
    )


def _kv_memory(resolved: Resolved, expected: Expected) -> str:
    have, need = resolved.kv_tokens, expected.runs * expected.run_tokens
    if have >= need:
        return ""
    limit = have // expected.runs // _ROUND * _ROUND
    fits = [f"a limit of {limit:,} tokens a run"] if limit else []
    if not resolved.kv_dtype.startswith("fp8") and 2 * have >= need:
        fits.append(f"an FP8 KV cache ({2 * have:,} tokens; its quality is unproven)")
    fits.append(f"{-(-need // max(have, 1))} times the memory for KV (more GPUs, a 4-bit model)")
    held = have // expected.run_tokens
    return (
        f"the engine's KV memory holds {have:,} tokens, {held} runs at their limit of {expected.run_tokens:,};"
        f" a profile has to hold {expected.runs} ({need:,}). What would fit: {', or '.join(fits)}"
    )


def _tokenizer(resolved: Resolved) -> str:
    if resolved.tokenizer_version >= TOKENIZER_VERSION:
        return ""
    return (
        f"the model's tekken.json is of version v{resolved.tokenizer_version}, Devstral 2 needs v{TOKENIZER_VERSION} or"
        " later: its older formats move the tool list, so no prefix would be shared"
    )
