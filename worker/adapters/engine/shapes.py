"""Model directories without weights: real shapes and a real vocabulary, for engines that make the weights up.

An engine started with `load_format="dummy"` fills them at random: its speed is that of the shape, its text is noise.
Nothing here is a copy of a published file; the figures are of Devstral 2's architecture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SPECIAL_SLOTS = 1000
"""Ids below this are special tokens; the vocabulary's own tokens follow."""

# By rank. The first twenty are in mistral-common; those of version 13 from [ARGS] on and the gaps between are from
# memory: no count depends on them, and the grammar and the parser ask the vocabulary for their ids.
_SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    *(f"<SPECIAL_{rank}>" for rank in range(20, 24)),
    *("[AUDIO]", "[BEGIN_AUDIO]"),
    *(f"<SPECIAL_{rank}>" for rank in range(26, 32)),
    *("[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
)


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Positions by YaRN. `scaling`: the slope by which queries grow past `original`; 0 for none."""

    theta: float
    factor: float
    original: int  #: tokens
    fast: float
    mscale_all_dim: float
    scaling: float


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dense Ministral3 text model."""

    vocabulary: int  #: tokens, the special ones included
    context: int  #: tokens
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    fp8: bool  #: weights and activations, static per tensor; else bfloat16
    files: Literal["mistral", "hf"]  #: params.json, or config.json


SHAPES: Mapping[str, Shape] = {
    # Small enough for a CPU, cut as Devstral 2 is; one context holds a short run.
    "tiny": Shape(
        vocabulary=8192,
        context=32768,
        hidden=128,
        intermediate=256,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=32,
        rope=Rope(theta=1e6, factor=8, original=4096, fast=4, mscale_all_dim=1, scaling=0),
        fp8=False,
        files="mistral",
    ),
    # The same with Devstral Small 2's way of scaling attention, in the format whose reader loses it.
    "tiny-scaled": Shape(
        vocabulary=8192,
        context=32768,
        hidden=128,
        intermediate=256,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=32,
        rope=Rope(theta=1e6, factor=8, original=4096, fast=4, mscale_all_dim=1, scaling=0.1),
        fp8=False,
        files="hf",
    ),
    # Devstral Small 2, its text part.
    "small-24b": Shape(
        vocabulary=131072,
        context=393216,
        hidden=5120,
        intermediate=32768,
        layers=40,
        heads=32,
        kv_heads=8,
        head_dim=128,
        rope=Rope(theta=1e8, factor=48, original=8192, fast=32, mscale_all_dim=1, scaling=0.1),
        fp8=True,
        files="hf",
    ),
    # Devstral 2.
    "large-123b": Shape(
        vocabulary=131072,
        context=262144,
        hidden=12288,
        intermediate=28672,
        layers=88,
        heads=96,
        kv_heads=8,
        head_dim=128,
        rope=Rope(theta=1e6, factor=64, original=4096, fast=4, mscale_all_dim=0, scaling=0),
        fp8=True,
        files="hf",
    ),
}


def write_model(directory: Path, shape: str, *, files: Literal["mistral", "hf"] | None = None) -> Path:
    """Writes the shape's configuration and vocabulary into `directory` (made where it is missing) and returns it.

    `files` overrides the shape's own format. Raises KeyError for a name that is not in `SHAPES`.
    """
    chosen = SHAPES[shape]
    directory.mkdir(parents=True, exist_ok=True)
    if (files or chosen.files) == "mistral":
        _write(directory / "params.json", _params(chosen))
    else:
        _write(directory / "config.json", _config(chosen))
    _write(directory / "tekken.json", _tekken(chosen.vocabulary))
    return directory


def kv_bytes_per_token(*, layers: int, kv_heads: int, head_dim: int, fp8: bool) -> int:
    """Keys and values of one token over all layers."""
    return 2 * layers * kv_heads * head_dim * (1 if fp8 else 2)


def parameters(shape: Shape) -> int:
    """Weights, counted; embeddings and output are untied."""
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
    return shape.layers * layer + 2 * shape.vocabulary * shape.hidden + shape.hidden


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _params(shape: Shape) -> dict[str, Any]:
    """Mistral's own format. Its YaRN block has no mscale: `apply_scale` false is a scale of 1."""
    rope = shape.rope
    content: dict[str, Any] = {
        "dim": shape.hidden,
        "n_layers": shape.layers,
        "head_dim": shape.head_dim,
        "hidden_dim": shape.intermediate,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "rope_theta": rope.theta,
        "norm_eps": 1e-05,
        "vocab_size": shape.vocabulary,
        "tied_embeddings": False,
        "max_position_embeddings": shape.context,
        "max_seq_len": shape.context,
        "dtype": "bfloat16",
        "q_lora_rank": None,
        "qk_rope_head_dim": None,
        "qk_nope_head_dim": None,
        "kv_lora_rank": None,
        "v_head_dim": None,
        "yarn": {
            "original_max_position_embeddings": rope.original,
            "factor": rope.factor,
            "apply_scale": False,
            "beta": rope.fast,
            "alpha": 1,
        },
    }
    if rope.scaling:
        content["llama_4_scaling"] = {"original_max_position_embeddings": rope.original, "beta": rope.scaling}
    if shape.fp8:
        content["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    return content


def _config(shape: Shape) -> dict[str, Any]:
    """Hugging Face's format."""
    rope = shape.rope
    content: dict[str, Any] = {
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        "dtype": "bfloat16",
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 11,
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-05,
        "initializer_range": 0.02,
        "use_cache": True,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "type": "yarn",
            "rope_theta": rope.theta,
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original,
            "max_position_embeddings": shape.context,
            "beta_fast": rope.fast,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": rope.mscale_all_dim,
            "llama_4_scaling_beta": rope.scaling,
        },
    }
    if shape.fp8:
        content["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "static",
            "weight_block_size": None,
            "dequantize": False,
            "modules_to_not_convert": ["lm_head"],
        }
    return content


def _tekken(vocabulary: int) -> dict[str, Any]:
    """The first tokens of mistral-common's packaged vocabulary, declared version 13 with its special tokens."""
    import mistral_common  # noqa: PLC0415 - a second and more; whoever only asks for a shape need not wait

    packaged = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    data = json.loads(packaged.read_text(encoding="utf-8"))
    own = vocabulary - SPECIAL_SLOTS
    names = [*_SPECIALS, *(f"<SPECIAL_{rank}>" for rank in range(len(_SPECIALS), SPECIAL_SLOTS))]
    return {
        "config": data["config"]
        | {
            "num_vocab_tokens": own,
            "default_vocab_size": vocabulary,
            "default_num_special_tokens": SPECIAL_SLOTS,
            "version": "v13",
        },
        "vocab": data["vocab"][:own],
        "special_tokens": [{"rank": r, "token_str": name, "is_control": True} for r, name in enumerate(names)],
        "version": 1,
        "type": "Tekken",
    }
