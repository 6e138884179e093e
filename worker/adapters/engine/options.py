"""How an engine is started: what a profile says, as far as vLLM has to know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """One engine. None leaves a choice to vLLM."""

    model: Path  #: directory with the weights, the model's configuration and its tekken.json
    max_model_len: int = 32_768  #: tokens of one context, the answer included
    max_num_seqs: int | None = None  #: sequences in one step
    max_num_batched_tokens: int | None = None  #: tokens in one step: the size of a prefill's chunk
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    kv_offloading_gib: float | None = None  #: host memory for KV blocks that left the GPU
    tensor_parallel: int = 1
    dummy_weights: bool = False
    enforce_eager: bool = False
    block_size: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  #: further engine arguments, by vLLM's names
