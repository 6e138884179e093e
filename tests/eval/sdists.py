"""Source distributions by name, version and hash, and what they need to run: fetched once through pip into a folder
that git ignores. No index is named here: pip's own configuration has the word."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import Mount
from worker.stages.ports import Layer

CACHE = Path(__file__).parents[2] / "build" / "eval"
_PACKAGES = "/opt/packages"
_PYTHON = '#!/bin/sh\nexec /usr/bin/python3 "$@"\n'  # many a recorded command says `python`


class NotFetched(Exception):
    """A package can't be had; the message ends with pip's own words."""


@dataclass(frozen=True)
class Sdist:
    name: str
    version: str
    sha256: str

    def folder(self) -> Path:
        """Its unpacked files, the one top folder taken off."""
        place = CACHE / "sdists" / f"{self.name}-{self.version}-{self.sha256[:12]}"
        if place.exists():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            archive = self._download(Path(scratch))
            out = Path(scratch) / "out"
            if archive.suffix == ".zip":
                zipfile.ZipFile(archive).extractall(out)
            else:
                with tarfile.open(archive) as packed:
                    packed.extractall(out, filter="data")
            (top,) = out.iterdir()
            top.rename(place)
        return place

    def _download(self, scratch: Path) -> Path:
        wanted = scratch / "wanted.txt"
        wanted.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        pip(
            "download", "--no-deps", "--no-binary", self.name, "--require-hashes", "-r", str(wanted), "-d", str(scratch)
        )
        archives = [path for path in scratch.iterdir() if path != wanted]
        if len(archives) != 1:
            raise NotFetched(f"{self.name} {self.version}: {len(archives)} archives in place of one")
        found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        assert found == self.sha256, "pip has checked it"
        return archives[0]


def layer(packages: Sequence[str], paths: Sequence[str] = ("", "src")) -> Layer:
    """Packages (exactly pinned requirements) for the Python of the sandboxes, shown read-only to every one of them;
    `paths` are the folders of the workspace that modules are found in."""
    lines = sorted(packages)
    for line in lines:
        assert "==" in line, f"{line} is not pinned"
    version = _sandbox_python()
    key = hashlib.sha256("\n".join([version, *lines]).encode()).hexdigest()[:16]
    place = CACHE / "packages" / key
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / "made"
            (made / "bin").mkdir(parents=True)
            (made / "bin" / "python").write_text(_PYTHON)
            (made / "bin" / "python").chmod(0o755)
            if lines:
                pip("install", "--target", str(made / "site"), "--only-binary", ":all:", "--python-version", version,
                    "--no-compile", *lines)  # fmt: skip
            made.chmod(0o755)
            shutil.move(made, place)
    found = ":".join([*(f"/workspace/{path}".rstrip("/") for path in paths), f"{_PACKAGES}/site"])
    return Layer(
        mounts=(Mount(source=place, target=_PACKAGES),),
        env={"PYTHONPATH": found, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
        path=(f"{_PACKAGES}/bin",),
    )


def pip(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=os.environ | {"PIP_NO_INPUT": "1"},
    )
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line][-3:]
        raise NotFetched(f"pip {command} {arguments[-1]}: {' / '.join(last)[:600]}")


def _sandbox_python() -> str:
    """`3.11`: sandboxes see the machine's /usr."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
