"""What no change should hold, and what a reviewer is told of one."""

from __future__ import annotations

import difflib

import pytest

from agent import credentials, leftovers, noticed, tampering
from agent.hygiene import HygienePolicy, check
from agent.outcome import FileChange, Patch


def patch(*files: tuple[str, str | None, str | None]) -> Patch:
    """Of paths with their text before and after; None: absent."""
    diffs, changes = [], []
    for path, before, after in files:
        old, new = (text.splitlines(keepends=True) if text else [] for text in (before, after))
        names = (f"a/{path}" if before is not None else "/dev/null", f"b/{path}" if after is not None else "/dev/null")
        lines = list(difflib.unified_diff(old, new, *names))
        diffs.append(f"diff --git a/{path} b/{path}\n" + "".join(lines))
        status = "A" if before is None else "D" if after is None else "M"
        added = sum(line.startswith("+") and not line.startswith("+++") for line in lines)
        removed = sum(line.startswith("-") and not line.startswith("---") for line in lines)
        modes = ("000000" if before is None else "100644", "000000" if after is None else "100644")
        changes.append(
            FileChange(path=path, status=status, old_mode=modes[0], new_mode=modes[1], added=added, removed=removed)
        )
    return Patch(base_commit="b", tree="t", diff="".join(diffs), files=tuple(changes))


@pytest.mark.parametrize(
    "path",
    [
        "repro.py", "reproduce_issue.py", "reproduction.sh", "issue_12_repro.js", "a/__pycache__/x.txt", "x.pyc",
        "a.py~", ".a.py.swp", "a.py.orig", "a.py.rej", ".DS_Store", "src/.DS_Store", ".idea/x.xml",
        "node_modules/a/index.js", ".coverage", ".pytest_cache/README.md", "#a#", ".venv/bin/x", "junit.xml",
    ],
)  # fmt: skip
def test_leftovers(path):
    assert leftovers.among(patch((path, None, "x\n"))) == (path,)
    assert leftovers.among(patch((path, "x\n", "y\n"))) == (), "what was there before is the repository's"


@pytest.mark.parametrize(
    "path", ["app.py", "docs/repro.py", "reproducible.py", "tests/data/x.orig", "debug_tools.py", "test_repro_case.py"]
)
def test_no_leftovers(path):
    assert leftovers.among(patch((path, None, "x\n"))) == ()


RANDOM = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY2zA4bC6dE8fG0hI2jK4lM6nO8pQ0rS2tU4vW6xY8z"
# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "AWS access key": "AK" + "IA" + "Q3EGRZ7X2LMN5PTW",
    "GitHub token": "gh" + "p_" + RANDOM[:36],
    "GitLab token": "gl" + "pat-" + RANDOM[:20],
    "Slack token": "xo" + "xb-" + RANDOM[:30],
    "Stripe key": "sk" + "_live_" + RANDOM[:24],
    "Google key": "AI" + "za" + RANDOM[:35],
    "PyPI token": "py" + "pi-AgEIcHlwaS5vcmc" + RANDOM,
    "npm token": "np" + "m_" + RANDOM[:36],
    "Hugging Face token": "h" + "f_" + RANDOM[:34],
    "API key": "sk-" + "ant-api03-" + RANDOM,
    "SendGrid key": "S" + "G." + RANDOM[:22] + "." + RANDOM[:43],
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + RANDOM,
}


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_refuses_the_change_and_is_not_repeated(what):
    secret = SECRETS[what]
    found = check(patch(("config.py", "a = 1\n", f'a = 1\nkey = """{secret}"""\n')))
    assert [(v.path, v.rule, v.reason) for v in found] == [("config.py", "secret", f"it adds a {what}")]
    assert check(patch(("config.py", f"key = '{secret}'\n", "key = read()\n"))) == (), "it is taken out"
    assert check(patch(("config.py", f"a\nkey = '{secret}'\n", f"k2 = '{secret}'\na\n"))) == (), "it is moved"


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "x" * 36, "-----BEGIN PRIVATE KEY-----", "xoxb-your-token", "hf_hub",
        "sk-learn", "npm_config_registry", "AIza", "d41d8cd98f00b204e9800998ecf8427e", "glpat-...",
    ],
)  # fmt: skip
def test_what_is_no_secret(text):
    assert list(credentials.added(f"+key = '{text}'\n")) == []


def test_limits_on_files_and_lines():
    policy = HygienePolicy(max_files=2, max_lines=3)
    small = patch(("a", None, "1\n"), ("b", "1\n", "2\n"))
    assert check(small, policy) == ()
    (files,) = check(patch(("a", None, "1\n"), ("b", None, "1\n"), ("c", None, "1\n")), policy)
    assert (files.rule, files.reason) == ("limits", "it changes 3 files; here it may be 2")
    (lines,) = check(patch(("a", "1\n2\n", "3\n4\n")), policy)
    assert (lines.rule, lines.reason) == ("limits", "it changes 4 lines; here it may be 3")


@pytest.mark.parametrize(
    "line",
    [
        "import _pytest.runner", "pytest_plugins = ['x']", "def pytest_collection_modifyitems(items):",
        "open(os.environ['TEST_REPORT'], 'w')", "unittest.TestCase.assertEqual = lambda *a: None",
        "unittest.case.TestCase.run = f", "setattr(unittest.TestCase, 'run', f)", "sys.modules['pytest'] = fake",
        "def load_tests(loader, tests, pattern):", "os.environ['PYTEST_ADDOPTS'] = ''",
    ],
)  # fmt: skip
def test_what_reaches_into_the_runner(line):
    (found,) = tampering.reaching(patch(("src/a.py", "x\n", f"x\n{line}\n")).diff)
    assert found.startswith("src/a.py: ")
    assert tampering.reaching(patch(("src/a.py", f"x\n{line}\n", f"y\n{line}\n")).diff) == (), "it was there before"
    assert tampering.reaching(patch(("docs/a.md", "x\n", f"x\n{line}\n")).diff) == ()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a_test.go", "func TestMain(m *testing.M) {"),
        ("a.go", 'fmt.Println("--- PASS: TestIt (0.00s)")'),
        ("src/a.rs", 'println!("test tests::it ... ok");'),
        ("src/a.rs", 'println!("test result: ok. 1 passed; 0 failed");'),
    ],
)
def test_what_writes_a_runners_own_lines(path, line):
    """go's and cargo's reports are made of what is printed."""
    assert tampering.reaching(patch((path, "x\n", f"x\n{line}\n")).diff)


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("os._exit(0)", ".py"),
        ("process.exit(0)", ".js"),
        ("os.Exit(0)", "_test.go"),
        ("std::process::exit(0);", ".rs"),
    ],
)
def test_a_test_that_ends_the_runner_is_not_a_program_that_ends_itself(line, end):
    assert tampering.reaching(patch((f"tests/a{end}", "x\n", f"x\n{line}\n")).diff)
    assert not tampering.reaching(patch((f"src/a{end.removeprefix('_test')}", "x\n", f"x\n{line}\n")).diff)
    assert not tampering.reaching(
        patch(("src/a.py", "x\n", "import pytest\nself.assertEqual(unittest.case == 1)\n")).diff
    )


def test_tests_that_are_removed_or_moved():
    two = "def test_a():\n    assert 1\n\n\ndef test_b():\n    assert 2\n"
    one = "def test_a():\n    assert 1\n"
    assert noticed.weakened(patch(("tests/test_x.py", two, one))) == ("tests/test_x.py: 1 test removed (test_b)",)
    assert noticed.weakened(patch(("tests/test_x.py", two, None))) == (
        "tests/test_x.py: 2 tests removed (test_a, test_b)",
    )
    moved = ("tests/test_y.py", None, "def test_b():\n    assert 2\n")
    assert noticed.weakened(patch(("tests/test_x.py", two, one), moved)) == ()
    assert noticed.weakened(patch(("app.py", two, one))) == (), "no test"
    assert noticed.weakened(patch(("tests/data.json", "{}\n", None))) == (
        "tests/data.json: a file of the tests is deleted",
    )
    js = "it('adds', () => { expect(1).toBe(1) })\n"
    assert noticed.weakened(patch(("a.test.js", js, "\n"))) == ("a.test.js: 1 test removed (adds)",)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("tests/test_x.py", "@pytest.mark.skip(reason='later')"),
        ("tests/test_x.py", "    pytest.skip('x')"),
        ("tests/test_x.py", "@pytest.mark.xfail"),
        ("tests/test_x.py", "    @unittest.expectedFailure"),
        ("tests/test_x.py", "    self.skipTest('x')"),
        ("x.test.ts", "test.skip('a', () => {})"),
        ("x.test.ts", "xit('a', () => {})"),
        ("x_test.go", "\tt.Skip()"),
        ("tests/x.rs", "#[ignore]"),
    ],
)
def test_tests_that_are_skipped(path, line):
    (told,) = noticed.weakened(patch((path, "x\n", f"x\n{line}\n")))
    assert told == f"{path}: 1 more to be skipped, or expected to fail"
    assert noticed.weakened(patch((path, f"x\n{line}\n", f"y\n{line}\n"))) == ()


def test_tests_that_check_less():
    before = "def test_a():\n    assert f(1) == 1\n    assert f(2) == 2\n"
    assert noticed.weakened(patch(("test_x.py", before, "def test_a():\n    assert f(1)\n"))) == (
        "test_x.py: 2 checks removed, 1 added",
    )
    assert noticed.weakened(patch(("test_x.py", before, before.replace("2", "3")))) == ()


def test_hunks_of_white_space_alone():
    ten = "".join(f"line {n}\n" for n in range(10))
    assert noticed.reformatted(patch(("a.js", "a(1,2)\n" + ten + "b( 1)\n", "a(1, 2)\n" + ten + "b(1)\n"))) == (
        "a.js: 2 hunks of white space alone",
    )
    assert noticed.reformatted(patch(("a.js", "f(1,2)\n", "f(1, 3)\n"))) == ()
    assert noticed.reformatted(patch(("a.py", "if a:\n    b()\n    c()\n", "if a:\n    b()\nc()\n"))) == ()
    assert noticed.reformatted(patch(("a.py", "x = 1  \n", "x = 1\n"))) == ("a.py: 1 hunk of white space alone",)
    assert noticed.reformatted(patch(("a.py", "x=1\n\n\n\ny=2\n", "x=1\n\ny=2\n"))) == (
        "a.py: 1 hunk of white space alone",
    )
