"""What the hardware would allow at most: arithmetic of one trajectory on one GPU, shown with its result.

A trajectory's new prompt tokens are computed once (each shared prefix and each token of history is found in the cache),
at the GPU's peak. Every generated token reads the weights, shared with all sequences that decode in the same step, and
its own context's KV. Nothing else costs anything: tools, launches, sampling, padding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.adapters.engine.shapes import kv_bytes_per_token
from worker.bench.workloads import Means
from worker.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """FLOP/s are dense. Data-sheet values, never reached."""

    name: str
    fp8: float
    bf16: float
    bandwidth: float  #: bytes/s


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="H100", fp8=1979e12, bf16=989.5e12, bandwidth=3.35e12),
        Gpu(name="H200", fp8=1979e12, bf16=989.5e12, bandwidth=4.8e12),
    )
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    multiplied: int  #: weights that each token is multiplied with: all but the embedding's
    weight_bytes: float
    kv_fp8: bool

    @property
    def kv_per_token(self) -> int:
        """Bytes."""
        return kv_bytes_per_token(layers=self.layers, kv_heads=self.kv_heads, head_dim=self.head_dim, fp8=self.kv_fp8)


def shape_of(directory: Path, *, kv_cache_dtype: str) -> ModelShape:
    """From a model's params.json or config.json; raises SettingsError when neither says it."""
    try:
        for name in ("params.json", "config.json"):
            if (directory / name).is_file():
                data = json.loads((directory / name).read_text(encoding="utf-8"))
                return _shape(data.get("text_config", data) | {"whole": data}, kv_cache_dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"the model's shape can't be read from {directory}: {error!r}") from error
    raise SettingsError(f"{directory} has neither params.json nor config.json")


def _shape(data: dict[str, Any], kv_cache_dtype: str) -> ModelShape:
    def of(*names: str) -> int:
        return int(next(data[name] for name in names if name in data))

    hidden, inner = of("dim", "hidden_size"), of("hidden_dim", "intermediate_size")
    layers, heads = of("n_layers", "num_hidden_layers"), of("n_heads", "num_attention_heads")
    kv_heads, head_dim, vocabulary = of("n_kv_heads", "num_key_value_heads"), of("head_dim"), of("vocab_size")
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    whole = data["whole"]
    quantized = any(whole.get(key) or data.get(key) for key in ("quantization_config", "quantization"))
    return ModelShape(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        multiplied=layers * (attention + 3 * hidden * inner) + hidden * vocabulary,
        weight_bytes=1 if quantized else 2,
        kv_fp8=kv_cache_dtype.startswith("fp8"),
    )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Seconds of one trajectory, by what takes them."""

    prefill: float
    weights: float
    kv: float
    batch: float
    shown: str

    @property
    def seconds(self) -> float:
        return self.prefill + self.weights + self.kv

    @property
    def per_hour(self) -> float:
        return 3600 / self.seconds


def bound(shape: ModelShape, gpu: Gpu, work: Means, *, batch: float, gpus: int = 1) -> Bound:
    """`batch`: sequences that decode in one step, on average. `gpus`: as if they were one."""
    peak = gpus * (gpu.fp8 if shape.weight_bytes <= 1 else gpu.bf16)
    bandwidth = gpus * gpu.bandwidth
    linear = 2.0 * shape.multiplied
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * work.context
    read = shape.multiplied * shape.weight_bytes
    prefill = work.new * (linear + attention) / peak
    weights = work.generated * read / (bandwidth * batch)
    kv = work.generated * work.decode_context * shape.kv_per_token / bandwidth
    total = prefill + weights + kv
    per_token, kv_read = linear + attention, work.decode_context * shape.kv_per_token
    shown = "\n".join(
        (
            f"prefill: {work.new:,.0f} new tokens x {per_token:.4g} FLOP / {peak:.4g} FLOP/s = {prefill:.4f} s",
            f"  FLOP a token: {linear:.4g} for weights, {attention:.4g} for attention to {work.context:,.0f} tokens",
            f"weights: {work.generated:,.0f} generated x {read:.4g} B / {bandwidth * batch:.4g} B/s = {weights:.4f} s",
            f"  B/s: {bandwidth:.4g} for each of {batch:.1f} that decode at once",
            f"KV: {work.generated:,.0f} generated x {kv_read:.4g} B / {bandwidth:.4g} B/s = {kv:.4f} s",
            f"  B a generated token: {work.decode_context:,.0f} tokens of context x {shape.kv_per_token:,.0f}",
            f"bound at {batch:.1f} decoding at once: {total:.4f} s = {3600 / total:,.0f} trajectories/hour",
        )
    )
    return Bound(prefill=prefill, weights=weights, kv=kv, batch=batch, shown=shown)
