"""Test runners other than Python's for real, in the real sandbox: what each reports of tests that pass, fail, are
skipped, can't be built or die, and that evidence is taken from it. A runner that this machine lacks is skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from agent.outcome import Execution, Outcome
from agent.protocols import Mount, SandboxLimits
from agent.reports import Case, command_for
from tests.toolchains import folder_of, tool
from tests.verifying import Bench
from worker.demo.node import node_command
from worker.stages.execution import Executor
from worker.stages.ports import Layer

P, F, E, S = Case.PASSED, Case.FAILED, Case.ERROR, Case.SKIPPED
MODULES = Path(__file__).parents[2] / "node_modules"


@dataclass
class Kit:
    """A runner: the folders that hold it, and what a set-up would have made."""

    tools: list[Path] = field(default_factory=list)
    layer: Layer = field(default_factory=lambda: Layer(mounts=(), env={}, path=()))

    def bench(self, folder: Path, files: Mapping[str, str]) -> Bench:
        return Bench(folder, files, tools=self.tools, layer=self.layer)


@pytest.fixture(scope="module")
def go() -> Kit:
    return Kit(tools=[*filter(None, [tool("go")])])


@pytest.fixture(scope="module")
def cargo() -> Kit:
    return Kit(tools=[*filter(None, [tool("cargo")])])


@pytest.fixture(scope="module")
def vitest(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return _node(tmp_path_factory.mktemp("vitest"), MODULES)


@pytest.fixture(scope="module")
def jest(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Not one of the locked packages: it and what it needs are larger than all of them together."""
    return _node(tmp_path_factory.mktemp("jest"), Path(os.environ.get("TEST_JEST_MODULES", MODULES)))


def _node(folder: Path, modules: Path) -> Kit:
    name = folder.name.rstrip("0123456789")
    if not (modules / name).is_dir():
        pytest.skip(f"there is no {name} in {modules.name}; TEST_JEST_MODULES may name another folder")
    node = Path(node_command()[0])
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version[1:].split(".")[:2])) < (20, 19):
        pytest.skip(f"vite needs Node.js 20.19 or later, this is {version.strip()}")
    made = folder / "node_modules"  # as a set-up leaves them
    shutil.copytree(modules, made, symlinks=True, copy_function=_link)
    for link in (".cache", ".vite", ".vite-temp"):
        (made / link).symlink_to("/tmp")
    layer = Layer(mounts=(Mount(source=made, target="/node_modules"),), env={}, path=("/node_modules/.bin",))
    return Kit(tools=[] if node.resolve().is_relative_to("/usr") else [folder_of(node)], layer=layer)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def executed(bench: Bench, command: str, scripts: Mapping[str, str] | None = None) -> Execution:
    run = Executor(
        sandbox=bench.sandbox,
        repositories=bench.place.repos,
        limits=SandboxLimits(),
        git_dir=bench.place.git_dir,
        layer=bench.layer,
        plan=command_for(command, scripts=scripts or {}),
        timeout=300.0,
        cancel=Event(),
        check=lambda: None,
    )
    return run(bench.base)[0]


GO_TEST = 'package %s\n\nimport "testing"\n\n'
GO = {
    "go.mod": "module example.test/app\n\ngo 1.19\n",
    "calc.go": "package app\n\nfunc Add(a, b int) int { return a - b }\n",
    "calc_test.go": 'package app\n\nimport (\n\t"fmt"\n\t"testing"\n)\n\n'
    'func TestOk(t *testing.T) { fmt.Print("half a line") }\n'
    'func TestBad(t *testing.T) { fmt.Print("half a line"); t.Fatal() }\n'
    'func TestLater(t *testing.T) { fmt.Print("half a line"); t.Skip("later") }\n'
    'func TestMany(t *testing.T) {\n\tfor _, n := range []string{"a b", "c/d", ""} {\n'
    '\t\tt.Run(n, func(t *testing.T) {\n\t\t\tif n == "c/d" {\n\t\t\t\tt.Error()\n\t\t\t}\n\t\t})\n\t}\n}\n'
    "func ExampleAdd() {\n\tfmt.Println(1)\n\t// Output: 1\n}\n"
    "func FuzzAdd(f *testing.F) { f.Add(1); f.Fuzz(func(t *testing.T, a int) {}) }\n",
    "sub/s_test.go": GO_TEST % "sub" + "func TestOk(t *testing.T) { t.Parallel() }\n",
    "broken/b.go": 'package broken\n\nfunc X() int { return "a" }\n',
    "broken/b_test.go": GO_TEST % "broken" + "func TestX(t *testing.T) {}\n",
    "imports/i_test.go": 'package imports\n\nimport (\n\t"example.test/nope"\n\t"testing"\n)\n\n'
    "func TestX(t *testing.T) { nope.X() }\n",
    "panics/p_test.go": GO_TEST % "panics"
    + "func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { panic(1) }\nfunc TestC(t *testing.T) {}\n",
    "dies/d_test.go": 'package dies\n\nimport (\n\t"os"\n\t"testing"\n)\n\n'
    "func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { os.Exit(3) }\n",
    "never/n_test.go": 'package never\n\nimport (\n\t"testing"\n\t"time"\n)\n\n'
    "func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { time.Sleep(time.Hour) }\n",
    "none/n.go": "package none\n",
}


def test_go(go: Kit, tmp_path: Path):
    bench = go.bench(tmp_path, GO)
    found = executed(bench, "go test -timeout 5s ./...")
    app = "example.test/app"
    assert found.cases == {
        f"{app}::TestOk": P, f"{app}::TestBad": F, f"{app}::TestLater": S, f"{app}::TestMany": F,
        f"{app}::TestMany/a_b": P, f"{app}::TestMany/c/d": F, f"{app}::TestMany/#00": P,
        f"{app}::ExampleAdd": P, f"{app}::FuzzAdd": P, f"{app}::FuzzAdd/seed#0": P,
        f"{app}/sub::TestOk": P, f"{app}/broken": E, f"{app}/imports": E,
        f"{app}/panics::TestA": P, f"{app}/panics::TestB": F,
        f"{app}/dies": E, f"{app}/dies::TestA": P, f"{app}/dies::TestB": E,
        f"{app}/never": E, f"{app}/never::TestA": P, f"{app}/never::TestB": E,
    }, found.output  # fmt: skip
    assert '{"Time"' not in found.output, "people read what go prints without -json"
    assert "cannot use" in found.output
    assert "--- FAIL: TestMany/c/d" in found.output
    some = executed(bench, "cd sub && go test -run 'TestOk|TestNo such' . && go env GOCACHE")
    assert some.cases == {f"{app}/sub::TestOk": P}
    assert some.output.endswith("/tmp/go-build\n"), "the home directory is too small for it"
    assert executed(bench, "go test -run 'TestNo such' ./sub").cases == {}
    assert executed(bench, "go test ./nowhere/...").cases is None


def test_modules_of_a_go_workspace(go: Kit, tmp_path: Path):
    files = {"go.work": "go 1.19\n\nuse ./a\nuse ./b\n"}
    for name in "ab":
        files[f"{name}/go.mod"] = f"module example.test/{name}\n\ngo 1.19\n"
        files[f"{name}/x_test.go"] = GO_TEST % name + "func TestOk(t *testing.T) {}\n"
    bench = go.bench(tmp_path, files)
    both = {"example.test/a::TestOk": P, "example.test/b::TestOk": P}
    assert executed(bench, "go test ./a/... ./b/...").cases == both
    assert executed(bench, "cd a && go test ./... && cd ../b && go test -v ./...").cases == both


RUST = """/// ```
/// assert_eq!(app::add(1, 1), 2);
/// ```
///
/// ```compile_fail
/// let x: u8 = "";
/// ```
///
/// ```ignore
/// x
/// ```
pub fn add(a: i32, b: i32) -> i32 { a + b }

#[cfg(test)]
mod tests {
    #[test] fn ok() { println!("test forged ... ok"); }
    #[test] fn bad() { println!("test forged ... ok"); panic!() }
    #[test] #[ignore = "a reason"] fn later() {}
    #[test] #[should_panic] fn panics() { panic!() }
    #[test] #[should_panic(expected = "x")] fn panics_not() {}
    #[test] fn result() -> Result<(), String> { Err("e".into()) }
}
"""
CARGO = {
    "Cargo.toml": '[workspace]\nmembers = ["app", "b"]\nresolver = "2"\n',
    "Cargo.lock": 'version = 3\n\n[[package]]\nname = "app"\nversion = "0.1.0"\n\n'
    '[[package]]\nname = "b-b"\nversion = "0.1.0"\n',
    "app/Cargo.toml": '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n',
    "app/src/lib.rs": RUST,
    "app/src/main.rs": "fn main() {}\n#[test] fn ok() {}\n",
    "app/tests/it.rs": "use std::io::Write;\n#[test] fn ok() {}\n"
    '#[test] fn prints() { std::io::stdout().write_all(b"half a line").unwrap(); }\n',
    "app/tests/dies.rs": "#[test] fn a() {}\n#[test] fn ends() {\n"
    "    std::thread::sleep(std::time::Duration::from_secs(1));\n    std::process::exit(3)\n}\n",
    "b/Cargo.toml": '[package]\nname = "b-b"\nversion = "0.1.0"\nedition = "2021"\n',
    "b/src/lib.rs": "#[test] fn ok() {}\n",
    "b/tests/it.rs": "#[test] fn ok() {}\n",
}


def test_cargo(cargo: Kit, tmp_path: Path):
    """Red without --no-fail-fast: nothing but the first program would be known."""
    bench = cargo.bench(tmp_path, CARGO)
    found = executed(bench, "cargo test --workspace")
    doc = next(test for test in found.cases or () if test.startswith("doc "))
    assert found.cases == {
        "src/lib.rs::app::tests::ok": P, "src/lib.rs::app::tests::bad": F, "src/lib.rs::app::tests::later": S,
        "src/lib.rs::app::tests::panics": P, "src/lib.rs::app::tests::panics_not": F,
        "src/lib.rs::app::tests::result": F, "src/main.rs::app::ok": P,
        "tests/it.rs::app::ok": P, "tests/it.rs::app::prints": P, "tests/dies.rs::app::a": P,
        "tests/dies.rs::app": E, "src/lib.rs::b_b::ok": P, "tests/it.rs::b_b::ok": P,
        doc: P, f"{doc} #2": P, f"{doc} #3": S,
    }, found.output  # fmt: skip
    assert doc.endswith("src/lib.rs - add")
    one = executed(bench, "cargo test -p b-b --test it -- --test-threads=1 --nocapture ok")
    assert one.cases == {"tests/it.rs::ok": P}, "without a unit test beside it nothing tells the crate"
    quiet = executed(bench, "cargo test -q -p b-b")
    assert (quiet.cases, quiet.returncode) == (None, 0)
    assert "its lines name 0" in quiet.note


VITEST = "import { beforeAll, describe, expect, test } from 'vitest';\n"
CASES = """test('ok', () => { console.log('hi') });
test('bad one', () => { expect(1).toBe(2) });
test.skip('later', () => {});
test.todo('some day');
test.each([1, 2])('many %i', (n) => { expect(n).toBe(1) });
describe('outer', () => { describe('inner > x', () => { test('"t" é', () => {}) }) });
describe.skip('s', () => { test('x', () => {}) });
"""
FOUND = {
    "ok": P, "bad one": F, "later": S, "some day": S, "many 1": P, "many 2": F, 'outer inner > x "t" é': P, "s x": S
}  # fmt: skip
SCRIPT = {
    "a.test.js": CASES,
    "sub dir/b.test.js": "test('ok', () => {});\n",
    "syntax.test.js": "test('ok', () => {\n",
    "throws.test.js": "throw new Error('top');\n",
    "all.test.js": "beforeAll(() => { throw new Error('x') }); test('a', () => {});\n",
    "never.test.js": "test('never', () => new Promise(() => {}), 300);\n",
}
SCRIPT_FOUND = {
    **{f"a.test.js > {name}": case for name, case in FOUND.items()},
    "sub dir/b.test.js > ok": P,
    "syntax.test.js": E,
    "throws.test.js": E,
    "never.test.js > never": F,
}


def test_vitest(vitest: Kit, tmp_path: Path):
    """Red without the set-up's links: with a configuration it has to write below node_modules before it starts."""
    scripts = {"test": "vitest run", "unit": "true && node /node_modules/vitest/vitest.mjs run --no-color"}
    files = {name: VITEST + text for name, text in SCRIPT.items()}
    config = "import { defineConfig } from 'vitest/config';\nexport default defineConfig({ test: { retry: 0 } });\n"
    package = json.dumps({"type": "module", "scripts": scripts})
    bench = vitest.bench(tmp_path, {**files, "vitest.config.ts": config, "package.json": package})
    whole = SCRIPT_FOUND | {"all.test.js": E, "all.test.js > a": S}
    found = executed(bench, "vitest run")
    assert found.cases == whole, found.output
    b = {"sub dir/b.test.js > ok": P}
    assert executed(bench, "cd 'sub dir' && /node_modules/.bin/vitest run -t ok b.test.js").cases == b
    assert executed(bench, "npm test -- 'sub dir'", scripts).cases == b
    assert executed(bench, "true && npm run unit -- b.test", scripts).cases == b
    assert executed(bench, "vitest run nowhere").cases == {}


def test_parts_of_a_vitest_workspace(vitest: Kit, tmp_path: Path):
    files = {"vitest.config.js": "export default { test: { projects: ['packages/*'] } };\n"}
    for name in "ab":
        files[f"packages/{name}/package.json"] = f'{{"name": "{name}", "type": "module"}}'
        files[f"packages/{name}/x.test.js"] = VITEST + "test('ok', () => {});\n"
    found = executed(vitest.bench(tmp_path, files), "vitest run")
    assert found.cases == {"packages/a/x.test.js > ok": P, "packages/b/x.test.js > ok": P}, found.output


def test_jest(jest: Kit, tmp_path: Path):
    scripts = {"test": "jest", "unit": "true && node /node_modules/jest/bin/jest.js"}
    package = json.dumps({"scripts": scripts})
    bench = jest.bench(tmp_path, {**SCRIPT, "package.json": package})
    found = executed(bench, "jest")
    assert found.cases == SCRIPT_FOUND | {"all.test.js > a": F}, found.output
    b = {"sub dir/b.test.js > ok": P}
    assert executed(bench, "cd 'sub dir' && /node_modules/.bin/jest -t ok b.test.js").cases == b
    assert executed(bench, "npm test -- 'sub dir'", scripts).cases == b
    assert executed(bench, "true && npm run unit -- b.test", scripts).cases == b
    none = executed(bench, "jest nowhere")
    assert (none.cases, none.returncode) == (None, 1)


@dataclass(frozen=True)
class Change:
    """A repository with a bug and a test that passes; what repairs it, what can't
    even be built, and what `hides` that old test."""

    command: str
    files: Mapping[str, str]
    fix: Mapping[str, str]
    new_test: Mapping[str, str]
    unbuilt: Mapping[str, str]
    hides: Mapping[str, str]
    reproduced: str
    broken: str
    hidden: str


_GO = "package app\n\nfunc Add(a, b int) int { return a - b }\n\nfunc Double(a int) int { return 2 * a }\n"
_JS = "export const add = (a, b) => a - b;\nexport const double = (a) => 2 * a;\n"
_CJS = "exports.add = (a, b) => a - b;\nexports.double = (a) => 2 * a;\n"
_RS = "pub fn add(a: i32, b: i32) -> i32 { a - b }\npub fn double(a: i32) -> i32 { 2 * a }\n"


def _of(source: str, path: str, more: Mapping[str, str], unbuilt: str, **others: object) -> Change:
    return Change(
        files={path: source, **more},
        fix={path: source.replace("a - b", "a + b")},
        unbuilt={path: unbuilt},
        **others,  # type: ignore[arg-type]
    )


_IMPORT = "import { expect, test } from 'vitest';\nimport { add, double } from './calc.js';\n"
_REQUIRE = "const { add, double } = require('./calc');\n"
_OLD_JS, _NEW_JS = (
    "test('doubles', () => { expect(double(2)).toBe(4) });\n",
    "test('adds', () => { expect(add(1, 1)).toBe(2) });\n",
)
_GO_OLD = GO_TEST % "app" + "func TestDouble(t *testing.T) {\n\tif Double(2) != 4 {\n\t\tt.Fatal()\n\t}\n}\n"
_GO_NEW = GO_TEST % "app" + "func TestAdd(t *testing.T) {\n\tif Add(1, 1) != 2 {\n\t\tt.Fatal()\n\t}\n}\n"
# Honest without the change, so that its new test fails there.
_GO_FORGES = """package app

import (
\t"fmt"
\t"os"
\t"testing"
)

func TestMain(m *testing.M) {
\tif Add(1, 1) != 2 {
\t\tos.Exit(m.Run())
\t}
\tfor _, name := range []string{"TestAdd", "TestDouble"} {
\t\tfmt.Printf("=== RUN   %s\\n--- PASS: %s (0.00s)\\n", name, name)
\t}
\tfmt.Println("PASS")
}
"""
CHANGES = {
    "go": _of(
        _GO,
        "calc.go",
        {"go.mod": GO["go.mod"], "calc_test.go": _GO_OLD},
        "package app\n",
        command="go test ./...",
        new_test={"new_test.go": _GO_NEW},
        reproduced="example.test/app::TestAdd",
        broken="breaks 1 test (example.test/app::TestDouble)",
        hides={"main_test.go": _GO_FORGES},
        hidden="reaches into the test runner (main_test.go: ",
    ),
    "cargo": _of(
        _RS,
        "src/lib.rs",
        {
            "Cargo.toml": CARGO["app/Cargo.toml"],
            "Cargo.lock": 'version = 3\n\n[[package]]\nname = "app"\nversion = "0.1.0"\n',
            "tests/old.rs": "#[test]\nfn doubles() { assert_eq!(app::double(2), 4); }\n",
        },
        "pub fn nothing() {}\n",
        command="cargo test --offline",
        new_test={"tests/new.rs": "#[test]\nfn adds() { assert_eq!(app::add(1, 1), 2); }\n"},
        reproduced="tests/new.rs::app::adds",
        broken="breaks tests that passed without it (by exit status",
        hides={"Cargo.toml": CARGO["app/Cargo.toml"] + '\n[[test]]\nname = "old"\ntest = false\n'},
        hidden="breaks 1 test (tests/old.rs::app::doubles)",
    ),
    "vitest": _of(
        _JS,
        "calc.js",
        {"package.json": '{"type": "module"}', "old.test.js": _IMPORT + _OLD_JS},
        "throw new Error('x');\n",
        command="vitest run",
        new_test={"new.test.js": _IMPORT + _NEW_JS},
        reproduced="new.test.js > adds",
        broken="breaks 1 test (old.test.js > doubles)",
        hides={"vitest.config.js": "export default { test: { exclude: ['old.test.js'] } };\n"},
        hidden="breaks 1 test (old.test.js > doubles)",
    ),
    "jest": _of(
        _CJS,
        "calc.js",
        {"package.json": "{}", "old.test.js": _REQUIRE + _OLD_JS},
        "throw new Error('x');\n",
        command="jest",
        new_test={"new.test.js": _REQUIRE + _NEW_JS},
        reproduced="new.test.js > adds",
        broken="breaks 1 test (old.test.js > doubles)",
        hides={"package.json": '{"jest": {"testPathIgnorePatterns": ["old"]}}'},
        hidden="breaks 1 test (old.test.js > doubles)",
    ),
}


@pytest.mark.parametrize("runner", CHANGES)
def test_evidence_is_taken_test_by_test(runner: str, request: pytest.FixtureRequest, tmp_path: Path):
    """Red for `unbuilt` where tests whose file can't be run any more are merely no longer collected."""
    kit: Kit = request.getfixturevalue(runner)
    change = CHANGES[runner]
    bench = kit.bench(tmp_path, change.files)
    good = bench.verify({**change.fix, **change.new_test}, test=change.command)
    assert good.outcome is Outcome.FIXED, good.reason
    assert f"1 test ({change.reproduced}) failed without the change" in good.reason
    assert bench.piece("before").counts == {P: 1}
    unbuilt = bench.verify({**change.unbuilt, **change.new_test}, test=change.command)
    assert unbuilt.outcome is Outcome.UNSOLVED, unbuilt.reason
    assert change.broken in unbuilt.reason
    wrong = {path: text.replace("2 * a", "a") for path, text in change.fix.items()}
    hidden = bench.verify({**wrong, **change.new_test, **change.hides}, test=change.command)
    assert hidden.outcome is not Outcome.FIXED
    assert change.hidden in hidden.reason
