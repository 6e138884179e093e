"""Which files of a change decide how tests are run."""

from __future__ import annotations

import pytest

from agent.infrastructure import scripts_behind, touched


def held(
    path: str, *, command="pytest -q", base: bytes | None = None, patched: bytes | None = b"x", existing=("a.py",)
):
    return bool(touched([path], command=command, existing=existing, base=lambda _: base, patched=lambda _: patched))


@pytest.mark.parametrize(
    "path",
    [
        "conftest.py", "tests/unit/conftest.py", "pytest.ini", "sub/.pytest.ini", "sitecustomize.py", "jest.config.mjs",
        "vitest.workspace.ts", "vite.config.ts", ".mocharc.json", ".babelrc", "node_modules/jest/index.js",
        "node_modules/.bin/jest", ".cargo/config.toml", "pytest.py", "_pytest/runner.py", "json.py", "xml/etree/x.py",
        "unittest/__init__.py", ".npmrc", "setup-jest.js", "setupTests.ts",
    ],
)  # fmt: skip
def test_what_is_held_back(path):
    assert held(path)


@pytest.mark.parametrize(
    "path",
    [
        "app.py", "tests/test_app.py", "tests/data/x.json", "src/json.py", "types/index.ts", "docs/conf.py",
        "config.py", "Makefile", "noxfile.py", "package-lock.json", "README.md",
    ],
)  # fmt: skip
def test_what_is_not(path):
    assert not held(path)


def test_a_folder_of_the_base_may_have_any_name():
    assert held("platform/new.py")
    assert not held("platform/new.py", existing=("platform/__init__.py",))


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("./run_tests.sh", "run_tests.sh"),
        ("bash scripts/ci.sh && true", "scripts/ci.sh"),
        ("cd sub && ./check", "sub/check"),
        ("python tests/run.py", "tests/run.py"),
        ("python -m tools.run", "tools/run.py"),
        ("python -m tools", "tools/__main__.py"),
        ("make test", "Makefile"),
        ("nox -s tests", "noxfile.py"),
        ("pytest -c conf/py.ini", "conf/py.ini"),
        ("pytest --config-file=conf/py.ini", "conf/py.ini"),
    ],
)
def test_what_the_command_names_is_held_back(command, path):
    assert held(path, command=command)
    assert not held(path, command="true")


def test_a_test_that_the_command_names_is_a_test():
    assert not held("tests/test_app.py", command="python tests/test_app.py")


def test_only_the_scripts_that_the_tests_run_say_how_they_are_run():
    """Red where every script counts: what `start` runs is the program itself."""
    scripts = {
        "start": "node src/server.js",
        "test": "npm run unit && npm run lint:all",
        "pretest": "node tools/prepare.js",
        "unit": "node tools/unit.js",
        "lint:all": "eslint .",
        "lint": "eslint src",
    }
    behind = scripts_behind("npm test", scripts)
    assert sorted(behind) == ["eslint .", "node tools/prepare.js", "node tools/unit.js", scripts["test"]]
    assert scripts_behind("pytest", scripts) == ()
    assert scripts_behind("yarn unit", {"unit": "mocha"}) == ("mocha",)
    assert scripts_behind("npm test", {"test": "npm run test"}) == ("npm run test",)


@pytest.mark.parametrize(
    ("path", "base", "same", "other"),
    [
        ("pyproject.toml", b"[project]\nname='a'\n", b"[project]\nname='b'\n", b"[tool.pytest]\naddopts='-k x'\n"),
        ("setup.cfg", b"[metadata]\nname=a\n", b"[metadata]\nname=b\n", b"[tool:pytest]\naddopts=-k x\n"),
        ("tox.ini", b"[pytest]\na=1\n", b"[pytest]\na = 1\n", b"[pytest]\na=2\n"),
        ("package.json", b'{"scripts":{"test":"a"}}', b'{"scripts":{"test":"a"},"name":"x"}', b'{"scripts":{}}'),
        ("package.json", b"{}", b'{"dependencies":{"a":"1"}}', b'{"jest":{}}'),
        ("Cargo.toml", b"[package]\nname='a'\n", b"[package]\nname='b'\n", b"[[test]]\nname='t'\nharness=false\n"),
    ],
)  # fmt: skip
def test_of_mixed_files_only_the_part_about_tests_counts(path, base, same, other):
    """Red where the file's name alone decides: a new dependency would cost a fix its evidence."""
    assert not held(path, base=base, patched=same)
    assert held(path, base=base, patched=other)
    assert held(path, base=other, patched=None), "deleted"
    assert held(path, base=base, patched=b"\xff\xfe["), "unreadable"
    assert held(path, base=None, patched=other), "added"
    assert not held("new/Cargo.toml", base=None, patched=b"[package]\nname='new'\n")
