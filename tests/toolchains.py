"""Programs of this machine as an operator shows them to sandboxes; what it lacks is a skipped test's reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

USUAL = "/usr/local/bin:/usr/bin:/bin"  # inside
USUAL_PROGRAMS = Path("/usr/bin")


def tool(name: str) -> Path | None:
    """What has to be shown for a program to be inside: None when it is there anyway. Skips where there is none."""
    if name == "cargo" and (home := toolchain()) is not None:
        return home
    if shutil.which(name, path=USUAL):
        return None
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return folder_of(Path(found))


def folder_of(program: Path) -> Path:
    folder = program.resolve().parent
    return folder.parent if folder.name == "bin" else folder


def toolchain() -> Path | None:
    """Behind a rustup proxy, which is of no use inside, stands a toolchain's own directory; None where the machine's
    own is all there is."""
    rustc = shutil.which("rustc")
    if rustc is None:
        return None
    done = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, check=False, cwd="/")
    home = Path(done.stdout.strip())
    there = done.returncode == 0 and (home / "bin" / "cargo").is_file()
    return home if there and not USUAL_PROGRAMS.samefile(home / "bin") else None
