"""What an engine turned out to be, against what the model's files and the profile ask for.

A model that is read wrongly still answers, only worse; here it is refused instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    nested: bool = field(default=False, compare=False)  #: stated in the inner configuration of a model with vision

    def __str__(self) -> str:
        return f"beta {self.beta:g} past {self.original} tokens"

    @property
    def override(self) -> dict[str, Any]:
        """vLLM's `hf_overrides` that bring it back where its reader of config.json lost it."""
        own = {"llama_4_scaling": {"beta": self.beta, "original_max_position_embeddings": self.original}}
        return {"text_config": own} if self.nested else own


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
    outer = json.loads(config.read_text(encoding="utf-8"))
    content = outer.get("text_config") or outer
    rope = content.get("rope_parameters") or {}
    stated = content.get("llama_4_scaling") or rope | {"beta": rope.get("llama_4_scaling_beta")}
    return _mapped(stated, nested=content is not outer)


def _mapped(scaling: Mapping[str, Any] | None, *, nested: bool = False) -> Scaling | None:
    if not scaling or not scaling.get("beta"):
        return None
    return Scaling(float(scaling["beta"]), int(scaling["original_max_position_embeddings"]), nested)


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
    fp8 = resolved.kv_dtype.startswith("fp8")
    return too_little_kv(resolved.kv_tokens, run_tokens=expected.run_tokens, runs=expected.runs, fp8=fp8)


def too_little_kv(have: int, *, run_tokens: int, runs: int, fp8: bool) -> str:
    """Why a KV memory of `have` tokens does not do for `runs` runs at their limit, and what would fit; empty where it
    does."""
    need = runs * run_tokens
    if have >= need:
        return ""
    limit = have // runs // _ROUND * _ROUND
    fits = [f"a limit of {limit:,} tokens a run"] if limit else []
    if not fp8 and 2 * have >= need:
        fits.append(f"an FP8 KV cache ({2 * have:,} tokens; its quality is unproven)")
    fits.append(f"{-(-need // have)} times the memory for KV (more GPUs, a 4-bit model)" if have else "more GPUs")
    return (
        f"the engine's KV memory holds {have:,} tokens, {have // run_tokens} runs at their limit of {run_tokens:,};"
        f" a profile has to hold {runs} ({need:,}). What would fit: {', or '.join(fits)}"
    )


def _tokenizer(resolved: Resolved) -> str:
    if resolved.tokenizer_version >= TOKENIZER_VERSION:
        return ""
    return (
        f"the model's tekken.json is of version v{resolved.tokenizer_version}, Devstral 2 needs v{TOKENIZER_VERSION} or"
        " later: its older formats move the tool list, so no prefix would be shared"
    )
