"""What of a `vllm:` model is refused before vLLM is imported."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from worker import compose
from worker.adapters.engine import versions
from worker.adapters.engine.opening import check_before
from worker.adapters.engine.options import EngineOptions
from worker.adapters.engine.shapes import write_model
from worker.errors import SettingsError
from worker.settings import Settings


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setattr(versions, "check", lambda *, untested_ok: None)
    return EngineOptions(model=write_model(tmp_path / "tiny", "tiny"))


def test_a_whole_directory_passes(options):
    check_before(options, untested_ok=False)


def test_a_directory_that_is_not_there_or_not_whole_is_named(options, tmp_path):
    with pytest.raises(SettingsError, match="no model directory"):
        check_before(replace(options, model=tmp_path / "none"), untested_ok=False)
    (options.model / "tekken.json").unlink()
    with pytest.raises(SettingsError, match=r"no tekken\.json"):
        check_before(options, untested_ok=False)
    (options.model / "params.json").unlink()
    with pytest.raises(SettingsError, match=r"neither params\.json nor config\.json"):
        check_before(options, untested_ok=False)


def test_more_kv_in_the_hosts_memory_than_it_has_is_refused_with_what_would_fit(options):
    with pytest.raises(SettingsError, match=r"1e\+06 GiB.*kv_offloading_gib"):
        check_before(replace(options, kv_offloading_gib=1e6), untested_ok=False)


def test_without_vllm_the_refusal_says_how_to_install_it(tmp_path, monkeypatch):
    def absent(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(SettingsError, match="vLLM is not installed"):
        check_before(EngineOptions(model=write_model(tmp_path / "tiny", "tiny")), untested_ok=False)


def test_the_setting_overrides_single_values_of_the_profile(tmp_path):
    settings = Settings.load(model=f"vllm:{tmp_path}", engine={"kv_cache_dtype": "auto", "extra": {"seed": 1}})
    assert settings.engine_model is not None
    options = compose.engine_options(settings, settings.engine_model)
    assert (options.kv_cache_dtype, options.max_model_len, options.extra) == ("auto", 32_768, {"seed": 1})
    with pytest.raises(SettingsError, match="DEVSTRAL_FIX_ENGINE: kv_cache_type"):
        compose.engine_options(settings.model_copy(update={"engine": {"kv_cache_type": "auto"}}), tmp_path)
    with pytest.raises(SettingsError, match="no profile 'mine'"):
        compose.engine_options(settings.model_copy(update={"profile": "mine"}), tmp_path)


def test_an_engines_worker_has_more_slots_than_a_servers_unless_told(tmp_path):
    assert Settings.load(model=f"vllm:{tmp_path}").trajectories == 64
    assert Settings.load(model="openai:http://127.0.0.1/v1#m").trajectories == 8
    assert Settings.load(model=f"vllm:{tmp_path}", gpu_slots=3).trajectories == 3
