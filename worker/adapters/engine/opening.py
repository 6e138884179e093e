"""A model on an engine of this process, opened in the one right order: what can be known before vLLM is imported is
refused before, what only the started engine shows is refused after."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.tokens import TokenCounter, TokenizerUnusable
from worker.adapters.engine import checks, versions
from worker.adapters.engine.admission import Capacity, KvAdmission
from worker.adapters.engine.conversation import EngineModel, Told, nobody
from worker.adapters.engine.options import EngineOptions
from worker.adapters.engine.weights import revision
from worker.errors import SettingsError

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads: what is forked from it may hang
}
"""Nothing is fetched from, or told to, anybody. Set before vLLM is imported."""

HOST_SHARE = 0.75
"""Of the machine's memory, for KV blocks that left the GPU; the rest is for the engine itself and the sandboxes."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """What the engine will be used for. Tokens."""

    run_tokens: int  #: what one run may hold at its end
    mean_context: int  #: what one is expected to hold, until some were seen
    untested_ok: bool = False  #: other versions of vLLM than the tested ones


def check_before(options: EngineOptions, *, untested_ok: bool) -> None:
    """SettingsError for what can't work, without importing vLLM."""
    model = options.model
    if not model.is_dir():
        raise SettingsError(f"there is no model directory {model}. Example: DEVSTRAL_FIX_MODEL=vllm:/models/devstral")
    checks.stated_scaling(model)
    if not (model / "tekken.json").is_file():
        raise SettingsError(f"{model} has no tekken.json: Devstral's own tokenizer file belongs beside its weights")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if (options.kv_offloading_gib or 0.0) > HOST_SHARE * memory:
        raise SettingsError(
            f"the profile keeps {options.kv_offloading_gib:g} GiB of KV in the host's memory, which has {memory:.0f}"
            f" GiB. Example: DEVSTRAL_FIX_ENGINE='{{\"kv_offloading_gib\": {max(1, int(memory / 2))}}}', or null"
        )
    versions.check(untested_ok=untested_ok)


def open_engine(
    options: EngineOptions,
    use: Use,
    *,
    on_death: Callable[[str], None] = lambda _: None,
    waited: Callable[[float], None] = lambda _: None,
    told: Told = nobody,
) -> EngineModel:
    """Blocks until the engine is up and is what the model's files ask for. `on_death` is told once, from a thread of
    the engine's; `waited` the seconds that each call waited for its turn,
    `told` of each call what it used and where its time went. SettingsError."""
    check_before(options, untested_ok=use.untested_ok)
    counter = TokenCounter(options.model / "tekken.json")
    try:
        version = int(counter.load().tokenizer.version.value.removeprefix("v"))
    except TokenizerUnusable as error:
        raise SettingsError(str(error)) from error
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    scaling = checks.stated_scaling(options.model)
    try:
        weights = revision(options.model)  # before the engine reads them, should they be replaced meanwhile
    except OSError as error:
        raise SettingsError(f"{options.model} can't be read: {error}") from error
    from worker.adapters.engine.vllm_host import VllmEngine  # noqa: PLC0415 - half a minute, and not everywhere

    engine = VllmEngine(_scaled(options, scaling), on_death=on_death)
    try:
        expected = checks.Expected(
            attention_scaling=scaling, max_model_len=options.max_model_len, run_tokens=use.run_tokens
        )
        checks.check(engine.resolved(version), expected)
        facts = engine.facts
        capacity = Capacity(gpu=facts.kv_tokens, context=facts.max_model_len, host=facts.host_kv_tokens)
        admission = KvAdmission(capacity, expected=min(use.mean_context, facts.max_model_len), waited=waited)
        return EngineModel(engine, counter, _name(options), revision=weights, admission=admission, told=told)
    except BaseException:
        engine.shutdown()
        raise


def _scaled(options: EngineOptions, scaling: checks.Scaling | None) -> EngineOptions:
    """vLLM's reader of config.json loses the model's attention scaling; that of params.json keeps it."""
    if scaling is None or (options.model / "params.json").is_file() or "hf_overrides" in options.extra:
        return options
    return replace(options, extra={**options.extra, "hf_overrides": scaling.override})


def _name(options: EngineOptions) -> str:
    """The directory's own name: it is shown to people on GitHub, who need not know where it lies."""
    name = Path(options.model).resolve().name
    return f"{name}, dummy weights" if options.dummy_weights else name
