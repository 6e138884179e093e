"""When a repository needs a set-up, and which files make it another one."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from worker.stages.config import ConfigError, RepositoryConfig, parse
from worker.stages.setup_plan import Plan, plan


def planned(files: dict[str, str], **settings) -> Plan | None:
    def read(path: str) -> bytes | None:
        return files[path].encode() if path in files else None

    return plan(RepositoryConfig(**settings), sorted(files), read)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"README.md": "x", "app.py": ""},
        {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"},
        {"pyproject.toml": '[project]\nname = "x"\nversion = "1"\ndependencies = []\n'},
        {"pyproject.toml": "not toml ["},
        {"package.json": "{}"},
        {"docs/requirements.txt": "sphinx"},
        {"go.mod": "module x"},
    ],
)
def test_nothing_to_set_up(files):
    assert planned(files) is None


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (
            {"requirements.txt": "a", "requirements-dev.txt": "b"},
            "pip install -r requirements-dev.txt -r requirements.txt",
        ),
        ({"pyproject.toml": '[project]\nname="x"\ndependencies=["a"]'}, "pip install -e .;"),
        ({"pyproject.toml": '[project]\n[project.optional-dependencies]\ntest=["a"]\ndocs=["b"]'}, "-e '.[test]'"),
        ({"setup.py": ""}, "pip install -e ."),
        (
            {"pyproject.toml": '[dependency-groups]\ndev=["a>1", {include-group="b"}]\nb=["c", "--evil"]'},
            "pip install 'a>1' c;",
        ),
        (
            {
                "uv.lock": "",
                "pyproject.toml": '[dependency-groups]\ntest=["a"]\n[project.optional-dependencies]\ndev=["b"]',
            },
            "uv export --quiet --frozen --extra dev --group test >",
        ),
        ({"uv.lock": "", "pyproject.toml": '[project]\nname="x"\n'}, "uv.lock is skipped"),
        ({"package.json": "{}", "package-lock.json": "{}"}, "npm ci"),
        ({"Cargo.lock": ""}, "cargo fetch --locked"),
        ({"go.sum": ""}, "go mod download"),
    ],
)
def test_what_is_detected(files, command):
    found = planned(files)
    assert found is not None
    assert command in found.script
    assert subprocess.run(["bash", "-n"], input=found.script.encode(), check=False).returncode == 0


def test_the_owners_command_comes_instead_and_false_means_none():
    files = {"requirements.txt": "a"}
    found = planned(files, setup="make 'deps'")
    assert found is not None
    assert "pip install" not in found.script
    assert "bash -ec " + shlex.quote("make 'deps'") in found.script
    assert planned(files, setup=False) is None
    assert planned({}, setup="true") is not None


def test_what_makes_it_another_set_up():
    files = {"requirements.txt": "a", "sub/package.json": "{}", "ci/deps.sh": "x", "app.py": "1"}

    def parts(changed: dict[str, str], **settings) -> tuple[str, ...]:
        found = planned({**files, **changed}, **settings)
        assert found is not None
        return found.parts

    assert parts({}) == parts({"app.py": "2", "ci/deps.sh": "y"})
    assert parts({}) != parts({"requirements.txt": "b"})
    assert parts({}) != parts({"sub/package.json": "[]"})
    assert parts({}) != parts({}, setup="pip install a")
    assert parts({}) != parts({}, setup_timeout_seconds=5)
    command = "bash ./ci/deps.sh && true"
    assert parts({}, setup=command) != parts({"ci/deps.sh": "y"}, setup=command)


def test_the_keys_are_checked():
    assert parse(b"setup: make deps\nsetup_timeout_seconds: 60\n").setup == "make deps"
    assert parse(b"setup: false\n").setup is False
    for bad in (b"setup: true\n", b"setup: [a]\n", b"setup_timeout_seconds: 0\n"):
        with pytest.raises(ConfigError):
            parse(bad)
