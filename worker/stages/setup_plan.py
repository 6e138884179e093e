"""What setting up a repository means: the owners' own command, or what its lock and manifest files ask for. Pure."""

from __future__ import annotations

import hashlib
import re
import shlex
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.stages.config import RepositoryConfig

Read = Callable[[str], bytes | None]

# What determines a set-up's result, wherever it lies in the repository.
_MANIFEST = re.compile(
    r"(?:.*/)?(?:[^/]*(?:requirements|constraints)[^/]*\.txt|requirements/[^/]+\.txt|pyproject\.toml|setup\.(?:py|cfg)"
    r"|(?:uv|poetry|pdm|pylock|Cargo)\.(?:lock|toml)|Pipfile(?:\.lock)?|package(?:-lock)?\.json|npm-shrinkwrap\.json"
    r"|yarn\.lock|pnpm-lock\.yaml|go\.(?:mod|sum)|\.(?:python|node)-version|\.npmrc)"
)
_REQUIREMENTS = re.compile(r"(?:requirements(?:[-_.](?:dev|tests?|testing))?|(?:dev|tests?)-requirements)\.txt")
_TESTING = ("test", "tests", "testing", "dev")
_MOST_FILES = 400

# A virtual environment of the layer's own, from the first Python that can make one; quiet where none can.
_VENV = """
for python in $(type -aP python3); do
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then "$python" -m venv "$SETUP_DIR/venv"; break; fi
done
hash -r
"""
_HEAD = """set -eu
mkdir -p "$SETUP_DIR/.cache" "$SETUP_DIR/.tmp" "$SETUP_DIR/bin" "$CARGO_HOME"
if [ -n "${DEVSTRAL_FIX_CARGO_CONFIG:-}" ]; then
  printf '%s\\n' "$DEVSTRAL_FIX_CARGO_CONFIG" >"$CARGO_HOME/config.toml"
fi
rmdir "$CARGO_HOME" 2>/dev/null || :
have() { command -v "$1" >/dev/null || { echo "$1 is not in the sandbox: skipped" >&2; return 1; }; }
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`script` runs with bash at the repository's root. `parts` determine the result, but for machine and network."""

    script: str
    parts: tuple[str, ...]


def plan(settings: RepositoryConfig, files: Sequence[str], read: Read) -> Plan | None:
    """What has to run for this commit before anything is tried; None when nothing does. `files` are its paths."""
    if settings.setup is False:
        return None
    # In a shell of its own: what ours is set to is no business of theirs, but for ending at the first error.
    steps = [f"bash -ec {shlex.quote(settings.setup)}"] if settings.setup else _detected(set(files), read)
    if not steps:
        return None
    python = [_VENV] if settings.setup or any("pip install" in step for step in steps) else []
    script = "\n".join([_HEAD, *python, *steps])
    watched = [path for path in files if _MANIFEST.fullmatch(path)][:_MOST_FILES]
    if settings.setup:  # scripts of the repository that the command names
        named = {word.removeprefix("./") for word in re.split(r"[\s;&|()<>\"']+", settings.setup)}
        watched += [path for path in files if path in named and path not in watched]
    digests = [f"{path} {hashlib.sha256(read(path) or b'').hexdigest()}" for path in watched]
    return Plan(script=script, parts=(script, str(settings.setup_timeout_seconds), *digests))


def _detected(files: set[str], read: Read) -> list[str]:
    steps = []
    wanted = _python(files, read)
    if wanted:
        # uv where it is inside, since it is quicker; it installs into $VIRTUAL_ENV.
        words = shlex.join(wanted)
        steps.append(
            'test -d "$SETUP_DIR/venv" || { echo "no python3 with venv and ensurepip in the sandbox" >&2; exit 1; }\n'
            f"if command -v uv >/dev/null; then uv pip install {words}; else pip install {words}; fi"
        )
    if "package-lock.json" in files and "package.json" in files:
        steps.append(
            'if have npm; then npm ci --no-audit --no-fund; mkdir -p "$SETUP_DIR/node"; '
            'if [ -d node_modules ]; then mv node_modules "$SETUP_DIR/node/"; fi; fi'
        )
    if "Cargo.lock" in files:
        steps.append('if have cargo; then mkdir -p "$CARGO_HOME"; cargo fetch --locked; fi')
    if "go.sum" in files:
        steps.append('if have go; then mkdir -p "$GOMODCACHE"; go mod download; fi')
    return steps


def _python(files: set[str], read: Read) -> list[str]:
    """The arguments of one `pip install`."""
    wanted: list[str] = []
    for path in sorted(files):
        if _REQUIREMENTS.fullmatch(path):
            wanted += ["-r", path]
    project: dict[str, Any] = {}
    if "pyproject.toml" in files:
        try:
            project = tomllib.loads((read("pyproject.toml") or b"").decode("utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
            project = {}
    described = _table(project, "project")
    optional = _table(described, "optional-dependencies")
    extras = [name for name in _TESTING if name in optional]
    if "build-system" in project or described.get("dependencies") or extras or "setup.py" in files:
        wanted += ["-e", f".[{','.join(extras)}]" if extras else "."]
    groups = _table(project, "dependency-groups")
    for name in _TESTING:
        wanted += [item for item in _group(groups, name, 0) if item not in wanted]
    return wanted


def _table(of: dict[str, Any], name: str) -> dict[str, Any]:
    value = of.get(name)
    return value if isinstance(value, dict) else {}


def _group(groups: dict[str, Any], name: str, depth: int) -> list[str]:
    """The requirements of a dependency group, with those of the groups it includes."""
    found: list[str] = []
    entries = groups.get(name)
    for entry in entries if isinstance(entries, list) and depth < 8 else ():
        if isinstance(entry, str) and re.match(r"[A-Za-z0-9]", entry):
            found.append(entry)
        elif isinstance(entry, dict) and isinstance(entry.get("include-group"), str):
            found += _group(groups, entry["include-group"], depth + 1)
    return found
