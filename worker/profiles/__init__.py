"""Model profiles: a model with the engine's defaults for it, in data, each default with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from agent.types import Frozen
from worker.adapters.engine.shapes import SHAPES, Shape
from worker.errors import SettingsError

Weights = Literal["fp8", "int4"]


class Default(Frozen):
    """A value and why: what was `measured`, what was simply `chosen`, and what is `unproven` about it."""

    value: JsonValue
    measured: str | None = None
    chosen: str | None = None
    unproven: str | None = None

    @model_validator(mode="after")
    def _has_a_reason(self) -> Default:
        if not (self.measured or self.chosen or self.unproven):
            raise ValueError("a default needs a reason: measured, chosen or unproven")
        return self


class Point(Frozen):
    """One measured point of W1 on one H100 80 GB: so many trajectories kept in flight, whatever held them back."""

    date: date
    in_flight: int
    trajectories_per_hour: float
    kv_offloading_gib: float = 0.0
    reprefilled: float | None = Field(default=None, description="of the prompt tokens, computed again")


class EngineSettings(Frozen):
    """What an engine is started with: a profile's defaults under the settings that override single ones. None leaves
    a choice to vLLM. The last five before `extra` describe what is fixed, for whoever reads a profile."""

    tensor_parallel: int = Field(ge=1)
    max_model_len: int = Field(gt=0)
    kv_cache_dtype: str
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    kv_offloading_gib: float | None = Field(default=None, gt=0)
    max_num_seqs: int | None = Field(default=None, gt=0)
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    kv_cache_memory_bytes: int | None = Field(default=None, gt=0)
    block_size: int | None = Field(default=None, gt=0)
    enforce_eager: bool = False
    dummy_weights: bool = False
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="further arguments, by vLLM's names")
    weights: Weights = "fp8"
    prefix_caching: Literal[True] = True
    chunked_prefill: Literal[True] = True
    speculative_decoding: Literal[False] = False

    @property
    def options(self) -> dict[str, Any]:
        """The fields of `EngineOptions`, less the model."""
        return self.model_dump(exclude={"weights", "prefix_caching", "chunked_prefill", "speculative_decoding"})

    @property
    def kv_fp8(self) -> bool:
        return self.kv_cache_dtype.startswith("fp8")


class Profile(Frozen):
    """`gpus`: over how many one engine can be spread."""

    key: str
    name: str
    licence: str
    shape_name: str = Field(alias="shape")
    gpus: tuple[int, ...]
    defaults: dict[str, Default]
    points: tuple[Point, ...] = ()

    @property
    def shape(self) -> Shape:
        return SHAPES[self.shape_name]

    @property
    def best(self) -> Point | None:
        """The measured point with the most trajectories an hour."""
        return max(self.points, key=lambda point: point.trajectories_per_hour, default=None)

    @property
    def unproven(self) -> list[str]:
        return [f"{name}: {default.unproven}" for name, default in self.defaults.items() if default.unproven]

    def engine(self, overrides: Mapping[str, Any] | None = None) -> EngineSettings:
        """SettingsError names an override that is no such setting, or no such value."""
        values = {name: default.value for name, default in self.defaults.items()}
        try:
            return EngineSettings.model_validate({**values, **(overrides or {})})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = ", ".join(EngineSettings.model_fields)
            raise SettingsError(
                f"DEVSTRAL_FIX_ENGINE: {name}: {first['msg']}; there is: {known}."
                ' Example: DEVSTRAL_FIX_ENGINE=\'{"kv_cache_dtype": "auto"}\''
            ) from error


@cache
def catalogue() -> Mapping[str, Profile]:
    """All profiles by key, read once."""
    text = files(__name__).joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {key: Profile.model_validate({"key": key, **values}) for key, values in tomllib.loads(text).items()}


def profile(key: str) -> Profile:
    """SettingsError names what there is."""
    known = catalogue()
    if key not in known:
        raise SettingsError(
            f"there is no profile {key!r} for a vllm: model; known: {', '.join(known)}. Example:"
            " DEVSTRAL_FIX_PROFILE=small-24b"
        )
    return known[key]
