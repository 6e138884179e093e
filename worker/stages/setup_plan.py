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
# npm installs beside package.json only. Links to parts of the repository stay right when the rest is moved. Where tools
# write below node_modules (vite its configuration, once read), they find a folder that is the session's own.
_NPM = """if have npm; then
npm ci --no-audit --no-fund
mkdir -p "$SETUP_DIR/node"
if [ -d node_modules ]; then
  find node_modules -type l | while IFS= read -r link; do
    end=$(readlink -f "$link") || continue
    case $end in "$PWD"/node_modules/*) ;; *) ln -sfn "$end" "$link" ;; esac
  done
  mv node_modules "$SETUP_DIR/node/"
  for name in .cache .vite .vite-temp; do
    test -e "$SETUP_DIR/node/node_modules/$name" || ln -s /tmp "$SETUP_DIR/node/node_modules/$name"
  done
fi
fi"""


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
    project = _project(files, read)
    wanted = _python(files, project)
    locked = "uv.lock" in files and "pyproject.toml" in files
    if wanted or locked:
        # uv where it is inside, since it is quicker and knows its own lock; it installs into $VIRTUAL_ENV. What the
        # lock says is asked of the index that this machine uses, not of the addresses in it.
        words = shlex.join(wanted)
        by_uv = _locked(project) if locked else f"uv pip install {words}"
        by_pip = f"pip install {words}" if wanted else "echo 'uv is not in the sandbox: uv.lock is skipped' >&2"
        steps.append(
            'test -d "$SETUP_DIR/venv" || { echo "no python3 with venv and ensurepip in the sandbox" >&2; exit 1; }\n'
            f"if command -v uv >/dev/null; then {by_uv}; else {by_pip}; fi"
        )
    if "package-lock.json" in files and "package.json" in files:
        steps.append(_NPM)
    if "Cargo.lock" in files:
        steps.append('if have cargo; then mkdir -p "$CARGO_HOME"; cargo fetch --locked; fi')
    if "go.sum" in files:
        steps.append('if have go; then mkdir -p "$GOMODCACHE"; go mod download; fi')
    return steps


def _project(files: set[str], read: Read) -> dict[str, Any]:
    if "pyproject.toml" not in files:
        return {}
    try:
        return tomllib.loads((read("pyproject.toml") or b"").decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return {}


def _locked(project: dict[str, Any]) -> str:
    """uv's lock with what is for testing: the group `dev` comes by itself."""
    groups, optional = _table(project, "dependency-groups"), _table(_table(project, "project"), "optional-dependencies")
    options = [word for name in _TESTING if name in optional for word in ("--extra", name)]
    options += [word for name in _TESTING if name in groups for word in ("--group", name)]
    export = shlex.join(["uv", "export", "--quiet", "--frozen", *options])
    return f'{export} >"$SETUP_DIR/.tmp/locked.txt"; uv pip install -r "$SETUP_DIR/.tmp/locked.txt"'


def _python(files: set[str], project: dict[str, Any]) -> list[str]:
    """The arguments of one `pip install`."""
    wanted: list[str] = []
    for path in sorted(files):
        if _REQUIREMENTS.fullmatch(path):
            wanted += ["-r", path]
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
