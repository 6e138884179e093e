"""Which weights a directory holds: the same on every host, another when they were replaced."""

from __future__ import annotations

import os
import shutil

import pytest

from worker.adapters.engine.weights import revision


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "devstral"
    folder.mkdir()
    (folder / "params.json").write_text('{"dim": 128}')
    (folder / "tekken.json").write_text("{}")
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(bytes(1 << 20))
    return folder


def test_a_copy_has_the_same_one_wherever_and_whenever_it_lies(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    (copy / "README.md").write_text("not read by the engine")
    os.utime(copy / "a.safetensors", (1, 1))
    assert revision(copy) == revision(model)
    assert len(revision(model)) == 8


def test_new_weights_of_the_same_names_and_sizes_have_another(model):
    before = revision(model)
    with (model / "b.safetensors").open("r+b") as file:
        file.seek(1 << 19)
        file.write(os.urandom(1 << 18))
    assert revision(model) != before


@pytest.mark.parametrize("change", ["params.json", "tekken.json", "config.json", "c.safetensors"])
def test_settings_and_further_files_count(model, change):
    before = revision(model)
    (model / change).write_text('{"dim": 256}')
    assert revision(model) != before


def test_small_and_empty_files_are_read_too(model):
    (model / "a.safetensors").write_bytes(b"")
    before = revision(model)
    (model / "a.safetensors").write_bytes(b"x")
    assert revision(model) != before
