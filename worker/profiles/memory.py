"""What a GPU holds of a profile, by arithmetic from one measured point."""

from __future__ import annotations

from worker.adapters.engine.checks import RUNS, too_little_kv
from worker.adapters.engine.shapes import Shape, kv_bytes_per_token, parameters
from worker.profiles import EngineSettings, Profile, Weights

GIB = 1 << 30
H100_GIB = 81_559 / 1024
"""An H100 80 GB, as `nvidia-smi` tells it; other cards are told by the same program."""
H200_GIB = 143_771 / 1024

_BYTES: dict[Weights, float] = {"fp8": 1.0, "int4": 4.25 / 8}  # four bits and a scale for each group
_OVERHEAD_GIB = 2.05
"""On each GPU besides weights and KV (activations, graphs, the driver's own), measured 2026-11-26: an H100 with
utilization 0.92 and 24B in FP8 holds 314,720 tokens of bf16 KV. It grows with the hidden size (computed)."""
_OVERHEAD_HIDDEN = 5120


def weight_bytes(shape: Shape, weights: Weights) -> float:
    """All layers quantised, embeddings and output in bf16."""
    ends = 2 * shape.vocabulary * shape.hidden
    return 2 * ends + (parameters(shape) - ends) * _BYTES[weights]


def kv_tokens(shape: Shape, engine: EngineSettings, *, gib: float, gpus: int) -> int:
    """Tokens that the KV memory of one engine on `gpus` GPUs of `gib` GiB holds; 0 where not even the weights fit."""
    used = weight_bytes(shape, engine.weights) / GIB + gpus * _OVERHEAD_GIB * shape.hidden / _OVERHEAD_HIDDEN
    free = gpus * gib * (engine.gpu_memory_utilization or 0.9) - used
    token = kv_bytes_per_token(layers=shape.layers, kv_heads=shape.kv_heads, head_dim=shape.head_dim, fp8=engine.kv_fp8)
    return max(0, int(free * GIB // token))


def refusal(profile: Profile, engine: EngineSettings, *, gib: float, gpus: int) -> str:
    """Why this profile can't be used on such GPUs, with what would fit; empty where it can."""
    have = kv_tokens(profile.shape, engine, gib=gib, gpus=gpus)
    return too_little_kv(have, run_tokens=engine.max_model_len, runs=RUNS, fp8=engine.kv_fp8)
