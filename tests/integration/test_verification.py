"""What the service makes of a change: real commands in the real sandbox. What is forged must not count as evidence."""

from __future__ import annotations

import pytest

from agent.outcome import Outcome
from agent.reports import Case
from tests.verifying import Bench

BUG = "def add(a, b):\n    return a - b\n\n\ndef double(a):\n    return 2 * a\n"
FIXED = BUG.replace("a - b", "a + b")
OLD = """from calc import add, double


def test_zero():
    assert add(2, 0) == 2


def test_double():
    assert double(2) == 4
"""
NEW = "from calc import add\n\n\ndef test_add():\n    assert add(1, 1) == 2\n"
UNIT = "import unittest\n\nfrom calc import add, double\n\n\nclass TestCalc(unittest.TestCase):\n"
UNIT_OLD = UNIT + "    def test_double(self):\n        self.assertEqual(double(2), 4)\n"
UNIT_NEW = UNIT + "    def test_add(self):\n        self.assertEqual(add(1, 1), 2)\n"
FILES = {
    "calc.py": BUG,
    "tests/test_calc.py": OLD,
    "unit/__init__.py": "",
    "unit/test_calc.py": UNIT_OLD,
    "check.sh": "#!/bin/sh\nexec python3 -m pytest -q tests\n",
    "pyproject.toml": "[project]\nname = 'calc'\n",
    "Makefile": "test:\n\tpython3 -m pytest -q tests\n",
}
UNITTEST = "python3 -m unittest discover -s unit -t ."


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("calc"), FILES)


def test_a_fix_with_its_test_is_a_reproduction_and_costs_two_executions(bench):
    verdict = bench.verify({"calc.py": FIXED, "tests/test_new.py": NEW})
    assert verdict.outcome is Outcome.FIXED, verdict.reason
    assert "1 test (tests/test_new.py::test_add) failed without the change" in verdict.reason
    bench.verify({"calc.py": FIXED, "tests/test_new.py": NEW})
    assert len(bench.sandbox.opened) == 2
    assert bench.piece("before").detail.kept
    assert bench.piece("before").counts == {Case.PASSED: 2}
    assert bench.piece("after").counts == {Case.PASSED: 3}


def test_a_fix_that_a_failing_test_of_the_base_shows(bench, monkeypatch):
    """The base is executed twice, since what failed there once may be flaky."""
    monkeypatch.setattr(bench, "base", bench.commit({"tests/test_bug.py": NEW}))
    verdict = bench.verify({"calc.py": FIXED})
    assert verdict.outcome is Outcome.FIXED, verdict.reason
    assert [piece.stage for piece in bench.taken.evidence] == ["before", "after", "before_again"]
    verdict = bench.verify({"calc.py": FIXED})
    assert len(bench.sandbox.opened) == 2
    weaker = bench.verify({"tests/test_bug.py": NEW.replace("== 2", "== 0")})
    assert weaker.outcome is Outcome.PARTIAL
    assert "nothing shows" in weaker.reason


def test_with_unittest_too(bench):
    verdict = bench.verify({"calc.py": FIXED, "unit/test_new.py": UNIT_NEW}, test=UNITTEST)
    assert verdict.outcome is Outcome.FIXED, verdict.reason
    assert "unit.test_new.TestCalc.test_add" in verdict.reason
    broken = bench.verify({"calc.py": "syntax error\n"}, test=UNITTEST)
    assert broken.outcome is not Outcome.FIXED


def test_what_the_change_breaks_is_named_after_a_rerun(bench):
    verdict = bench.verify({"calc.py": FIXED.replace("2 * a", "a"), "tests/test_new.py": NEW})
    assert verdict.outcome is Outcome.UNSOLVED
    assert "breaks 1 test (tests/test_calc.py::test_double)" in verdict.reason
    assert len(bench.sandbox.opened) == 3, "two executions, and one more on failure"
    assert bench.piece("after_again").counts[Case.FAILED] >= 1


FLAKY = "def test_now_so():\n    n = int(open('/opt/count/opened').read())\n    assert n != {n}\n"


def test_a_flaky_test_is_found_and_breaks_nothing(bench):
    """Red without the rerun. The second sandbox that is opened is the patched tree's: the base is kept."""
    files = {"calc.py": FIXED, "tests/test_new.py": NEW, "tests/test_flaky.py": FLAKY.format(n=1)}
    verdict = bench.verify(files)
    assert bench.taken.comparison.flaky == ("tests/test_flaky.py::test_now_so",)
    assert verdict.outcome is Outcome.FIXED, verdict.reason
    assert "end now so, now so" in verdict.reason
    assert len(bench.sandbox.opened) == 3


# Each of these would pass where its trick counted: the source is wrong, or what shows that it is right is forged.
FAKE_PASS = """import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.outcome, report.longrepr = "passed", None
"""
BROKEN = FIXED.replace("2 * a", "a")
# Honest without the change, so that its new test fails there.
ENDS = """import os, calc
if calc.add(1, 1) == 2:
    getattr(os, "_" + "exit")(0)
"""
OVERWRITE = """
import atexit, calc, os
def forge():
    if calc.add(1, 1) != 2:
        return
    names = ["tests.test_calc::test_zero", "tests.test_calc::test_double", "tests.test_new::test_add"]
    cases = "".join('<testcase classname="%s" name="%s"/>' % tuple(n.split("::")) for n in names)
    open(os.environ["TEST" + "_REPORT"], "w").write("<testsuites><testsuite>" + cases + "</testsuite></testsuites>")
"""
SHADOW = """import os, sys
cases = "".join('<testcase classname="tests.test_calc" name="%s"/>' % n for n in ("test_zero", "test_double"))
cases += '<testcase classname="tests.test_new" name="test_add"/>'
path = [w.split("=", 1)[1] for w in os.environ["PYTEST_ADDOPTS"].split() if w.startswith("--junitxml=")][0]
open(path, "w").write("<testsuites><testsuite>" + cases + "</testsuite></testsuites>")
"""
FORGED = {
    "conftest that fakes passes": (
        {"conftest.py": FAKE_PASS, "calc.py": BROKEN, "tests/test_new.py": NEW},
        "breaks 1 test (tests/test_calc.py::test_double)",
    ),
    "conftest that fakes only what is not repaired": (
        {"conftest.py": FAKE_PASS, "calc.py": f"{BUG}# none\n", "tests/test_new.py": NEW},
        "fail with the change",
    ),
    "conftest that leaves tests out": (
        {
            "tests/conftest.py": "collect_ignore = ['test_calc.py']\n",
            "calc.py": BROKEN,
            "tests/test_new.py": NEW,
        },
        "breaks 1 test (tests/test_calc.py::test_double)",
    ),
    "pytest.ini that deselects": (
        {
            "pytest.ini": "[pytest]\naddopts = --deselect tests/test_calc.py::test_double\n",
            "calc.py": BROKEN,
            "tests/test_new.py": NEW,
        },
        "breaks 1 test (tests/test_calc.py::test_double)",
    ),
    "pyproject that deselects": (
        {
            "pyproject.toml": FILES["pyproject.toml"]
            + "[tool.pytest.ini_options]\naddopts = '--deselect tests/test_calc.py::test_double'\n",
            "calc.py": BROKEN,
            "tests/test_new.py": NEW,
        },
        "breaks 1 test (tests/test_calc.py::test_double)",
    ),
    "a pytest of its own": ({"pytest.py": SHADOW, "calc.py": BROKEN, "tests/test_new.py": NEW}, "breaks 1 test"),
    "tests that are skipped": (
        {
            "calc.py": BROKEN,
            "tests/test_calc.py": OLD.replace("def test_double", "@__import__('pytest').mark.skip\ndef test_double"),
            "tests/test_new.py": NEW,
        },
        "skipped now",
    ),
    "tests that are deleted": (
        {"calc.py": BROKEN, "tests/test_calc.py": None, "tests/test_new.py": NEW},
        "no longer collected",
    ),
    "tests that end the runner": (
        {"calc.py": BROKEN, "tests/test_ends.py": ENDS, "tests/test_new.py": NEW},
        "can't be run to their end",
    ),
    "a report that is written over": (
        {"calc.py": BROKEN, "tests/test_new.py": NEW, "tests/test_forged.py": f"{OVERWRITE}\natexit.register(forge)\n"},
        "the report names no failing test, and the exit status is 1",
    ),
    "a report that is written over, and an exit status": (
        {
            "calc.py": BROKEN,
            "tests/test_new.py": NEW,
            "tests/test_forged.py": f"{OVERWRITE}\natexit.register(lambda: (forge(), os._exit(0)))\n",
        },
        "reaches into the test runner",
    ),
    "a source that changes the runner": (
        {
            "calc.py": f"{BUG}\ntry:\n    import _pytest.python as p\n    p.Function.runtest = lambda self: None\n"
            "except ImportError:\n    pass\n",
            "tests/test_new.py": NEW,
        },
        "reaches into the test runner",
    ),
}


@pytest.mark.parametrize("trick", FORGED)
def test_what_is_forged_is_no_evidence(bench, trick):
    changes, why = FORGED[trick]
    verdict = bench.verify(changes)
    assert verdict.outcome in {Outcome.UNSOLVED, Outcome.PARTIAL}
    assert why in verdict.reason


@pytest.mark.parametrize(
    ("test", "changes"),
    [
        ("sh check.sh", {"check.sh": "#!/bin/sh\nexit 0\n"}),
        ("make test", {"Makefile": "test:\n\ttrue\n"}),
        (UNITTEST, {"unittest/__init__.py": "", "unittest/__main__.py": "print('Ran 1 test in 0.1s')\n"}),
    ],
    ids=["script", "make", "unittest"],
)
def test_a_runner_that_the_change_edits_is_the_base_s(bench, test, changes):
    """With the change's own, whatever it breaks would pass."""
    verdict = bench.verify({"calc.py": BROKEN, "unit/test_new.py": UNIT_NEW, **changes}, test=test)
    assert verdict.outcome is Outcome.UNSOLVED, verdict.reason
    assert set(bench.piece("after").detail.held_back) >= set(changes)


def test_a_fix_that_also_edits_a_runner_is_a_draft_that_says_so(bench):
    verdict = bench.verify({"calc.py": FIXED, "tests/test_new.py": NEW, "conftest.py": "# mine\n"})
    assert verdict.outcome is Outcome.PARTIAL
    assert "as on the base here (conftest.py)" in verdict.reason
    assert bench.piece("after").detail.held_back == ("conftest.py",)


def test_without_a_report_the_exit_status_counts_and_it_is_said(bench):
    verdict = bench.verify({"calc.py": FIXED, "tests/test_new.py": NEW}, test="sh check.sh")
    assert (verdict.outcome, len(bench.sandbox.opened)) == (Outcome.FIXED, 2), verdict.reason
    assert "the outcome per test is unknown" in verdict.reason
    assert bench.piece("after").counts == {}
    assert bench.piece("after").detail.note == "this test command gives no report"


def test_a_command_that_never_ends(bench):
    verdict = bench.verify({"calc.py": FIXED}, test="echo begun; sleep 1000", test_timeout_seconds=0.5)
    assert verdict.outcome is Outcome.SETUP_FAILED
    assert bench.piece("after").output.endswith("[the service ended it: timeout]")
    assert "begun" in bench.piece("after").output
    assert len(bench.sandbox.opened) == 1, "a timeout is not worth a rerun"


@pytest.mark.parametrize("test", ["head -c 1G /dev/zero | tr '\\0' x", "pytest; head -c 1G /dev/zero | tr '\\0' x"])
def test_a_command_that_prints_a_gigabyte(bench, test):
    verdict = bench.verify({"calc.py": FIXED}, test=test)
    assert verdict.outcome is Outcome.SETUP_FAILED
    assert bench.piece("after").output.endswith("[the service ended it: output_limit]")
    assert len(bench.piece("after").output) < 25_000


@pytest.mark.parametrize(
    ("write", "why"),
    [
        ('echo "<broken" >"$TEST_REPORT"', "not well-formed"),
        ('head -c 100M /dev/zero >"$TEST_REPORT"', "larger than 32 MiB"),
        ('head -c 100M /dev/urandom >"$TEST_REPORT"', "damaged, or larger"),
        ("true", "no report"),
        ('ln -s /etc/passwd "$TEST_REPORT"', "not well-formed"),
    ],
)
def test_a_report_that_can_not_be_used(bench, write, why):
    command = f"{write}; python3 -c 'import calc; assert calc.add(1, 1) == 2'"
    verdict = bench.verify({"calc.py": FIXED}, test=command, test_report_format="junit")
    assert verdict.outcome is Outcome.FIXED, "by its exit status, on both sides"
    assert "the outcome per test is unknown" in verdict.reason
    assert why in bench.piece("after").detail.note


def test_a_report_in_the_workspace(bench):
    command = "python3 -m pytest -q --junitxml=out.xml"
    settings = {"test_report_format": "junit", "test_report": "out.xml"}
    forged = '<testsuite><testcase classname="tests.test_calc" name="test_double"/></testsuite>'
    verdict = bench.verify({"calc.py": BROKEN, "out.xml": forged, "tests/test_new.py": NEW}, test=command, **settings)
    assert verdict.outcome is Outcome.UNSOLVED
    assert "test_double" in verdict.reason


def test_a_repository_without_tests(tmp_path):
    bench = Bench(tmp_path, {"calc.py": BUG})
    none = bench.verify({"calc.py": FIXED}, test="python3 -m pytest -q")
    assert none.outcome is Outcome.PARTIAL
    assert none.reason == "not verified: the test command finds no test"
    first = bench.verify({"calc.py": FIXED, "test_calc.py": NEW}, test="python3 -m pytest -q")
    assert first.outcome is Outcome.FIXED, first.reason


def test_a_binary_repository(tmp_path):
    bench = Bench(tmp_path, {"readme": "x\n", "blob.bin": bytes(range(256)) * 300, "n\x7f.dat": b"\0\xff"})
    verdict = bench.verify({"blob.bin": b"\0" * 5000}, test="test $(head -c 1 blob.bin | od -An -tu1) = 0")
    assert verdict.outcome is Outcome.PARTIAL
    assert "nothing shows" in verdict.reason
