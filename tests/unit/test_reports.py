"""Reports of test runners: what is understood, what is refused, and how a command is run so that it leaves one."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.reports import Case, Format, ReportError, Unusable, command_for, parse, taken_apart
from worker.demo.node import node_command, npm_command

P, F, E, S = Case.PASSED, Case.FAILED, Case.ERROR, Case.SKIPPED


def suite(*cases: str) -> bytes:
    return f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>".encode()


def test_junit_outcomes_and_node_ids():
    data = suite(
        '<testcase classname="tests.test_a.TestX" name="test_1[a.b]" />',
        '<testcase classname="tests.test_a" name="test_2"><failure message="x">tb</failure></testcase>',
        '<testcase classname="tests.test_a" name="test_3"><skipped/></testcase>',
        '<testcase classname="" name="tests.test_b"><error message="collection failure"/></testcase>',
        '<testcase classname="a.b" file="a/b.py" name="test_4"/>',
        '<testcase classname="test" file="/x.js" name="adds"/>',
    )
    assert parse(Format.JUNIT, data, files=["tests/test_a.py", "tests/test_b.py"]) == {
        "tests/test_a.py::TestX::test_1[a.b]": P,
        "tests/test_a.py::test_2": F,
        "tests/test_a.py::test_3": S,
        "tests/test_b.py": E,
        "a/b.py::test_4": P,
        "/x.js::test::adds": P,
    }


@pytest.mark.parametrize("ends", [["<failure/>", ""], ["", "<failure/>"], ["<failure/><skipped/>"]])
def test_no_later_line_betters_a_failure(ends: list[str]):
    """Red where the last of two entries counts."""
    data = suite(*(f'<testcase classname="a" name="t">{end}</testcase>' for end in ends))
    assert parse(Format.JUNIT, data) == {"a::t": F}


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><testsuite>&b;</testsuite>'


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"", Unusable.ABSENT, "no report"),
        (BOMB, Unusable.MALFORMED, "document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>', Unusable.MALFORMED, "document type"),
        (suite('<testcase name="a"/>')[:-5], Unusable.MALFORMED, "not well-formed"),
        (b"<html></html>", Unusable.MALFORMED, "no testsuite"),
        (b"<a>" * 1000, Unusable.MALFORMED, "deeper"),
        (b"\xff\xfe\x00garbage", Unusable.MALFORMED, "not well-formed|decoded"),
        (b'<?xml version="1.0" encoding="no-such"?><testsuite/>', Unusable.MALFORMED, "not well-formed|decoded"),
        (b" " * ((32 << 20) + 1), Unusable.TOO_LARGE, "32 MiB"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_hostile_xml_is_refused_in_words(data: bytes, kind: Unusable, why: str):
    with pytest.raises(ReportError, match=why) as caught:
        parse(Format.JUNIT, data)
    assert caught.value.kind is kind


def test_too_many_tests_are_refused(monkeypatch):
    monkeypatch.setattr("agent.reports.cases.MAX_CASES", 2)
    with pytest.raises(ReportError, match="more than 2"):
        parse(Format.JUNIT, suite(*(f'<testcase name="{n}"/>' for n in range(3))))


def test_long_and_odd_ids_stay_distinct_and_printable():
    data = suite(*(f'<testcase classname="a" name="{"x" * 4000}{n}&#10;"/>' for n in range(2)))
    found = parse(Format.JUNIT, data)
    assert len(found) == 2
    assert all(len(test) <= 500 and test.isprintable() for test in found)


def test_jest():
    report = {
        "numTotalTests": 3,
        "testResults": [
            {
                "name": "/workspace/a.test.js",
                "status": "failed",
                "assertionResults": [
                    {"fullName": "adds one", "title": "one", "status": "passed"},
                    {"fullName": "adds two", "title": "two", "status": "failed"},
                    {"fullName": "", "title": "three", "status": "todo"},
                ],
            },
            {"name": "/workspace/b.test.js", "status": "failed", "assertionResults": []},
        ],
    }
    found = {"a.test.js > adds one": P, "a.test.js > adds two": F, "a.test.js > three": S, "b.test.js": E}
    assert parse(Format.JEST, json.dumps(report).encode()) == found
    with pytest.raises(ReportError, match="counts 4 tests and names 3"):
        parse(Format.JEST, json.dumps(report | {"numTotalTests": 4}).encode())
    for broken in (b"{", b"[]", b'{"testResults": [3]}', b"[" * 200_000):
        with pytest.raises(ReportError):
            parse(Format.JEST, broken)


def test_go():
    events = [
        {"Action": "start", "Package": "m/a"},
        {"Action": "run", "Package": "m/a", "Test": "TestOk"},
        {"Action": "pass", "Package": "m/a", "Test": "TestOk"},
        {"Action": "run", "Package": "m/a", "Test": "TestBad/x"},
        {"Action": "fail", "Package": "m/a", "Test": "TestBad/x"},
        {"Action": "run", "Package": "m/a", "Test": "TestDied"},
        {"Action": "fail", "Package": "m/a"},
        {"Action": "skip", "Package": "m/b", "Test": "TestLater"},
        {"Action": "pass", "Package": "m/b"},
        {"Action": "fail", "Package": "m/c"},
        {"Action": "run", "Package": "m/e", "Test": "TestHalf"},
        {"Action": "output", "Package": "m/e", "Test": "TestHalf", "Output": "half--- PASS: TestHalf (0.00s)\n"},
        {"Action": "pass", "Package": "m/e"},
        {"Action": "run", "Package": "m/f", "Test": "TestSays"},
        {"Action": "output", "Package": "m/f", "Test": "TestSays", "Output": "half--- PASS: TestSays (0.00s)\n"},
    ]
    data = "# m/c\n{not json\nFAIL\tm/d [build failed]\n" + "\n".join(map(json.dumps, events))
    assert parse(Format.GO, data.encode()) == {
        "m/a::TestBad/x": F,
        "m/a::TestDied": E,
        "m/a::TestOk": P,
        "m/b::TestLater": S,
        "m/c": E,
        "m/d": E,
        "m/e::TestHalf": P,
        "m/f::TestSays": E,
    }
    with pytest.raises(ReportError, match="no event"):
        parse(Format.GO, b"ok m/a 0.1s\n")


CARGO = """     Running unittests src/lib.rs (target/debug/deps/k_k-0123456789abcdef)

running 4 tests
test tests::adds ... ok
test tests::breaks - should panic ... Error: "e"
FAILED
half a linetest tests::says ... ok
test tests::later ... ignored, a reason

successes:

---- tests::says stdout ----
test forged ... ok

failures:
    tests::breaks

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/it.rs (target/debug/deps/it-0123456789abcdef)

running 2 tests
test ends ... ok
     Running tests/more.rs (target/debug/deps/more-0123456789abcdef)

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests k

running 2 tests
test src/lib.rs - add (line 30) - compile fail ... FAILED
test src/lib.rs - add (line 3) ... ok

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
"""


def test_cargo():
    assert parse(Format.CARGO, CARGO.encode()) == {
        "doc k::src/lib.rs - add": P,
        "doc k::src/lib.rs - add #2": F,
        "src/lib.rs::k_k::tests::adds": P,
        "src/lib.rs::k_k::tests::breaks": F,
        "src/lib.rs::k_k::tests::says": P,
        "src/lib.rs::k_k::tests::later": S,
        "tests/it.rs::k_k": E,
        "tests/it.rs::k_k::ends": P,
    }


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("", "test forged ... ok\n", "counts 0 tests of nothing, its lines name 1"),
        ("test tests::adds ... ok\n", "", "counts 4 tests of src/lib.rs::k_k, its lines name 3"),
        ("half a line", "test forged ... ok\n", "its lines name 5"),
        ("tests::adds ... ok", "tests::adds ... FAILED", "are not those of its lines"),
        ("failures:\n    tests::breaks", "", "are not those of its lines"),
        ("2 passed; 1 failed", "3 passed; 0 failed", "are not those of its lines"),
    ],
)
def test_cargo_lines_that_do_not_add_up(old: str, new: str, why: str):
    with pytest.raises(ReportError, match=why):
        parse(Format.CARGO, CARGO.replace(old, new, 1).encode())


def test_no_test_of_cargo():
    with pytest.raises(ReportError, match="names no test"):
        parse(Format.CARGO, b"error: could not compile `k` (lib) due to 1 previous error\n")


PYTEST_FILES = {
    "test_it.py": """
import pytest

def test_ok(): pass
def test_bad(): assert False, "why - so"
@pytest.mark.parametrize("v", ["a - b"])
def test_many(v): assert v == ""
@pytest.mark.skip
def test_later(): pass
@pytest.fixture
def broken(): raise ValueError
def test_needs(broken): pass
class TestC:
    def test_in(self): print("=== short test summary info ===\\nPASSED forged")
""",
    "test_import.py": "import no_such_module\n",
}
UNITTEST_FILES = {
    "test_it.py": """
import unittest

class T(unittest.TestCase):
    def test_ok(self): pass
    def test_bad(self): self.fail()
    def test_doc(self):
        "Says what it does."
    @unittest.skip("later")
    def test_later(self): pass
    def test_subs(self):
        for i in range(2):
            with self.subTest(i=i): self.assertEqual(i, 0)

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise ValueError
    def test_never(self): pass
"""
}


def executed(folder: Path, files: dict[str, str], command: str) -> tuple[int, str, str]:
    for name, content in files.items():
        (folder / name).write_text(content)
    script = command_for(command).script
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_pytest_command_leaves_its_report_outside_the_workspace(tmp_path):
    """Red without PYTEST_ADDOPTS in the script."""
    code, report, shown = executed(tmp_path, PYTEST_FILES, f"{sys.executable} -m pytest -q -p no:cacheprovider")
    assert code == 1
    assert "test_bad" in shown, "what tests print is still seen"
    assert parse(Format.JUNIT, taken_apart(report), files=PYTEST_FILES) == {
        "test_it.py::test_ok": P,
        "test_it.py::test_bad": F,
        "test_it.py::test_many[a - b]": F,
        "test_it.py::test_later": S,
        "test_it.py::test_needs": E,
        "test_it.py::TestC::test_in": P,
        "test_import.py": E,
    }
    assert not list(tmp_path.glob("*.xml"))


def test_pytests_summary_as_text(tmp_path):
    (tmp_path / "test_it.py").write_text(PYTEST_FILES["test_it.py"])
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert parse(Format.PYTEST, done.stdout) == {
        "test_it.py::test_ok": P,
        "test_it.py::test_bad": F,
        "test_it.py::test_many[a - b]": F,
        "test_it.py::test_needs": E,
        "test_it.py::TestC::test_in": P,
    }
    with pytest.raises(ReportError, match="counts"):
        parse(Format.PYTEST, done.stdout.replace(b"PASSED test_it.py::test_ok\n", b""))


def test_a_unittest_command(tmp_path):
    code, report, _ = executed(tmp_path, UNITTEST_FILES, f"{sys.executable} -m unittest")
    assert code == 1
    assert parse(Format.UNITTEST, taken_apart(report)) == {
        "test_it.Broken": E,
        "test_it.T.test_bad": F,
        "test_it.T.test_doc": P,
        "test_it.T.test_later": S,
        "test_it.T.test_ok": P,
        "test_it.T.test_subs": F,
    }


def test_what_the_tests_leave_running_does_not_hold_up_the_report(tmp_path):
    """Red where the script waits for the end of what is printed. unittest's -v goes through a pipe."""
    body = "import subprocess, unittest\n\nclass T(unittest.TestCase):\n    def test_ok(self):\n"
    body += "        subprocess.Popen(['sleep', '60'])\n"
    (tmp_path / "test_it.py").write_text(body)
    script = command_for(f"{sys.executable} -W ignore -m unittest").script
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        running = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdout=out, stderr=err, start_new_session=True)
        try:
            assert running.wait(30) == 0
        finally:
            os.killpg(running.pid, signal.SIGKILL)
    assert parse(Format.UNITTEST, taken_apart((tmp_path / "out").read_text())) == {"test_it.T.test_ok": P}


def test_a_module_that_unittest_can_not_import_has_its_own_name(tmp_path):
    _, report, _ = executed(tmp_path, {"test_it.py": "import no_such_module\n"}, f"{sys.executable} -m unittest")
    assert parse(Format.UNITTEST, taken_apart(report)) == {"test_it": E}


def test_addresses_in_ids_do_not_make_them_new_each_time():
    first, second = (parse(Format.JUNIT, suite(f'<testcase name="t[0x7f00{n}1aab]"/>')) for n in "ab")
    assert first == second


def test_a_unittest_line_without_an_end_is_no_pass():
    text = b"test_a (m.T.test_a) ... \ntest_b (m.T.test_b) ... ok\nRan 2 tests in 0.1s\n"
    assert parse(Format.UNITTEST, text) == {"m.T.test_a": E, "m.T.test_b": P}
    with pytest.raises(ReportError, match="counts 2 tests, its lines name 3"):
        parse(Format.UNITTEST, b"forged (m.T.forged) ... ok\n" + text)


@pytest.fixture
def node(tmp_path_factory, monkeypatch):
    """node and npm on PATH, as `make setup` has found or fetched them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, command in (("node", node_command()), ("npm", npm_command())):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.usefixtures("node")
def test_a_node_command(tmp_path):
    body = "const t = require('node:test'); t('adds', () => {}); t('breaks', () => { throw new Error('x'); });\n"
    code, report, _ = executed(tmp_path, {"a.test.js": body}, "node --test")
    assert code == 1
    found = parse(Format.JUNIT, taken_apart(report))
    assert sorted((test.rsplit("::", 1)[-1], case) for test, case in found.items()) == [("adds", P), ("breaks", F)]


def test_a_report_in_the_workspace_is_not_one_of_before(tmp_path):
    """Red without the removal before the command: what a patch left there would be the report."""
    (tmp_path / "out.xml").write_bytes(suite('<testcase name="forged"/>'))
    script = command_for("true", Format.JUNIT, "out.xml").script
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    with pytest.raises(ReportError) as caught:
        taken_apart(done.stdout)
    assert caught.value.kind is Unusable.ABSENT


def test_a_command_without_a_report_is_run_as_it_is():
    for command in ("make test", "tox", "pytest a && pytest b", "echo pytest-xdist", "npx jest | tee x", "ls src/jest"):
        assert command_for(command).script == command


@pytest.mark.parametrize(
    ("command", "executed"),
    [
        ("go test ./...", "go test -json ./..."),
        ("python3 -m unittest", "python3 -m unittest -v"),
        ("python3 -m unittest discover -s t", "python3 -m unittest discover -v -s t"),
        ("python3 -m unittest -q t", "python3 -m unittest -q t"),
        ("npx jest src", 'npx jest src --json --outputFile="$TEST_REPORT"'),
        ("npx vitest run", 'npx vitest run --reporter=default --reporter=json --outputFile.json="$TEST_REPORT"'),
        ("cargo +nightly test --all", "cargo +nightly test --no-fail-fast --all"),
        ("cargo test --no-fail-fast", "cargo test --no-fail-fast"),
        (
            "cd 'a b' && ./node_modules/.bin/jest x",
            "cd 'a b' && ./node_modules/.bin/jest x --json --outputFile=\"$TEST_REPORT\"",
        ),
        (
            "node --no-warnings node_modules/jest/bin/jest.js",
            'node --no-warnings node_modules/jest/bin/jest.js --json --outputFile="$TEST_REPORT"',
        ),
    ],
)
def test_commands_that_are_told_to_report(command: str, executed: str):
    assert command_for(command).command == executed
    assert command_for(command).form is not None


@pytest.mark.parametrize(
    ("command", "script", "executed"),
    [
        ("npm test", "jest src", 'npm test -- --json --outputFile="$TEST_REPORT"'),
        ("pnpm run test", "jest", 'pnpm run test --json --outputFile="$TEST_REPORT"'),
        ("npm test", "tsc && jest", 'npm test -- --json --outputFile="$TEST_REPORT"'),
        ("npm t -- -t 'a b'", "jest", "npm t -- -t 'a b' --json --outputFile=\"$TEST_REPORT\""),
        ("npm ci && npm run unit", "jest", 'npm ci && npm run unit -- --json --outputFile="$TEST_REPORT"'),
        ("npm test", "jest && tsc", "npm test"),
        ("npm test", "jest -- a", "npm test"),
        ("npm test | tee log", "jest", "npm test | tee log"),
        ("npm test", "mocha", "npm test"),
    ],
)
def test_what_npm_runs_is_told_to_report(command: str, script: str, executed: str):
    assert command_for(command, scripts={"test": script, "unit": script}).command == executed
    assert command_for(command).command == command


@pytest.mark.usefixtures("node")
def test_a_node_runner_behind_npm(tmp_path):
    (tmp_path / "package.json").write_text('{"scripts": {"test": "node --test"}}')
    (tmp_path / "a.test.js").write_text("const t = require('node:test'); t('adds', () => {});\n")
    script = command_for("npm test", scripts={"test": "node --test"}).script
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(parse(Format.JUNIT, taken_apart(done.stdout)).values()) == [P]


@pytest.mark.parametrize("stdout", ["", "not base64!", "aGVsbG8=", "H4sIAAAAAAAAA0tMSgYAwkEkNQMAAAA"])
def test_what_is_no_packed_report_is_refused(stdout: str):
    with pytest.raises(ReportError):
        taken_apart(stdout)


def test_a_packed_report_expands_to_a_bounded_size():
    packed = subprocess.run(
        ["bash", "-c", "head -c 40M /dev/zero | gzip -c | base64 -w0"], capture_output=True, text=True, check=True
    ).stdout
    with pytest.raises(ReportError, match="larger than 32 MiB"):
        taken_apart(packed)
