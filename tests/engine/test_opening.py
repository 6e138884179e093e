"""A `vllm:` model opened as a worker opens it: from a directory, through every check."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from agent.types import Sampling, UserMessage
from tests.engine.test_vllm import end, processes
from tests.engine_contract import soon
from worker.adapters.engine.opening import Use, open_engine
from worker.adapters.engine.options import EngineOptions
from worker.adapters.engine.shapes import write_model
from worker.adapters.engine.weights import revision
from worker.errors import SettingsError

pytestmark = pytest.mark.slow
USE = Use(run_tokens=32_768, mean_context=4000)


def test_a_config_json_gets_its_attention_scaling_back_and_answers(options: EngineOptions, tmp_path: Path) -> None:
    before = processes()
    waits: list[float] = []
    scaled = replace(options, model=write_model(tmp_path / "scaled", "tiny-scaled"))
    with closing(open_engine(scaled, USE, waited=waits.append)) as model:
        mine = processes() - before
        assert model.label == f"vllm:scaled, dummy weights (vllm 0.32.0; weights {revision(scaled.model)})"
        assert model.tokenizer == "tekken"
        conversation = model.open("s", ())
        conversation.add([UserMessage(content="u")])
        done = conversation.complete(Sampling(max_tokens=8), deadline=soon(60), cancel=Event())
        assert done.usage.completion == 8
        assert waits == [0.0]
    end(mine)


def test_an_engine_that_holds_too_few_runs_is_refused_and_ended(options: EngineOptions) -> None:
    before = processes()
    with pytest.raises(SettingsError, match=r"a profile has to hold 4.*What would fit: a limit of"):
        open_engine(replace(options, kv_cache_memory_bytes=32 << 20), USE)
    assert processes() == before


def test_code_that_comes_with_a_model_can_not_be_asked_for(options: EngineOptions) -> None:
    with pytest.raises(SettingsError, match="trust_remote_code"):
        open_engine(replace(options, extra={**options.extra, "trust_remote_code": True}), USE)
