"""Which files of a change decide how tests are run, rather than what is tested: for the evidence they are taken as on
the base, so that a change can't choose how it is judged. Pure."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from agent.hygiene import is_test_file

# By name, in whatever folder.
_NAMES = frozenset(
    {
        "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", ".coveragerc", "sitecustomize.py",
        "usercustomize.py", ".npmrc", "karma.conf.js", ".rspec",
    }
)  # fmt: skip
# By name, where the test command runs their program: to others they are a part of the build.
_OF_PROGRAMS = MappingProxyType(
    {
        "makefile": "make", "gnumakefile": "make", "justfile": "just", "taskfile.yml": "task", "taskfile.yaml": "task",
        "noxfile.py": "nox", "rakefile": "rake",
    }
)  # fmt: skip
_PATTERNS = re.compile(
    r"""
      (jest|vitest|vite|babel|ava|playwright|cypress)\.config\.[\w.]+
    | vitest\.workspace\.[\w.]+
    | \.(mocharc|babelrc|swcrc|nycrc)(\.\w+)?
    | jest[.-]setup[\w.-]*|setup[.-]?(tests|jest)\.[cm]?[jt]sx?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FOLDERS = frozenset({"node_modules", ".cargo"})
# What the runners are made of: such a name at the top would be imported instead of them.
_SHADOWS = sys.stdlib_module_names | {"pytest", "_pytest", "py", "pluggy", "iniconfig", "xdist", "nose", "nose2"}

Sections = Callable[[bytes], Any]


def _ini(*prefixes: str) -> Sections:
    def read(data: bytes) -> Any:
        parser = configparser.RawConfigParser(strict=False)
        parser.read_string(data.decode())
        return {name: dict(parser[name]) for name in parser.sections() if name.startswith(prefixes)}

    return read


def _package_json(data: bytes) -> Any:
    package = json.loads(data)
    keys = ("scripts", "jest", "mocha", "ava", "vitest", "nyc", "babel", "workspaces", "type")
    return {key: package[key] for key in keys if key in package}


def _pyproject(data: bytes) -> Any:
    tool = tomllib.loads(data.decode()).get("tool", {})
    return {
        key: tool[key] for key in ("pytest", "tox", "nox", "coverage", "hatch", "pdm", "poe", "pixi") if key in tool
    }


def _cargo(data: bytes) -> Any:
    manifest = tomllib.loads(data.decode())
    lib = manifest.get("lib", {})
    parts = {"tests": manifest.get("test"), **{key: lib.get(key) for key in ("test", "harness", "doctest")}}
    return {key: value for key, value in parts.items() if value is not None}


# Files that hold other things, too: only where these parts differ is the base's whole file taken.
_MIXED: MappingProxyType[str, Sections] = MappingProxyType(
    {
        "setup.cfg": _ini("tool:pytest", "pytest", "aliases", "coverage"),
        "tox.ini": _ini(""),
        "pyproject.toml": _pyproject,
        "package.json": _package_json,
        "cargo.toml": _cargo,
    }
)


def touched(
    paths: Sequence[str],
    *,
    command: str,
    existing: Collection[str],
    base: Callable[[str], bytes | None],
    patched: Callable[[str], bytes | None],
) -> tuple[str, ...]:
    """Those of a change's `paths` that decide how tests are run.

    `command` is the test command, `existing` are the base's paths; `base` and `patched` read a file of either tree
    (None: there is none; what can't be read as a file of its kind counts as different).
    """
    tops = {path.split("/", 1)[0] for path in existing}
    named = _named_by(command)

    def decides(path: str) -> bool:
        folders, name = path.split("/")[:-1], path.rsplit("/", 1)[-1].casefold()
        if name in _NAMES or _PATTERNS.fullmatch(name) or _FOLDERS & set(folders):
            return True
        if name in _MIXED:
            return _differ(_MIXED[name], base(path), patched(path))
        if name in _OF_PROGRAMS and _OF_PROGRAMS[name] in named:
            return True
        if not is_test_file(path) and any(path == word or path.endswith(f"/{word}") for word in named):
            return True
        top = path.split("/", 1)[0]
        return top not in tops and top.split(".", 1)[0] in _SHADOWS and name.endswith((".py", ".pyc", ".so"))

    return tuple(path for path in paths if decides(path))


def scripts_behind(command: str, scripts: Mapping[str, str]) -> tuple[str, ...]:
    """Of a package.json's scripts those that a test command runs, through others, too."""
    if re.search(r"\b(npm|pnpm|yarn|bun|npx)\b", command) is None:
        return ()
    text, found = f"{command} test", dict[str, str]()
    while True:
        names = [
            name
            for name in scripts
            if name not in found and re.search(rf"(?<![\w:-]){re.escape(name)}(?![\w:-])", text)
        ]
        if not names:
            return tuple(found.values())
        for name in names:
            more = {name: scripts[name]} | {n: scripts[n] for n in (f"pre{name}", f"post{name}") if n in scripts}
            found |= more
            text += "\n" + "\n".join(more.values())


def _named_by(command: str) -> frozenset[str]:
    """Every word of the command, as the repository's paths are written; of a module also its files."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    parts = {part for word in words for part in re.split(r"[=;&|<>()]", word) if part}
    named = {part.removeprefix("./").removeprefix("/workspace/") for part in parts}
    modules = [module.replace(".", "/") for module in re.findall(r"-m\s+([\w.]+)", command)]
    return frozenset(named | {module + end for module in modules for end in (".py", "/__main__.py", "/__init__.py")})


def _differ(read: Sections, base: bytes | None, patched: bytes | None) -> bool:
    """Whether the part that is about tests differs; also where a side can't be read."""
    try:
        return bool((read(base) if base else {}) != (read(patched) if patched else {}))
    except (ValueError, configparser.Error, AttributeError, TypeError, RecursionError):
        return True
