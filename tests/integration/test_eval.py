"""`devstral-fix eval`: SWE-bench's fields in, its predictions out, scored in the sandbox, going on where it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.protocols import Isolation
from tests.alive import alive, end, wait_for
from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.fakes import Answer, FakeConversation, FakeModel, call, say
from tests.sandboxes import git, make_source, place
from tests.verifying import SITE, Bench
from worker import compose
from worker.errors import ModelUnavailable, SettingsError, ShuttingDown
from worker.evals import report, run, statistics
from worker.evals.instances import Instance, read
from worker.evals.results import Result, Store
from worker.evals.results import read as read_results
from worker.evals.scoring import Scorer
from worker.settings import Settings

BUGGY = {
    "shop.py": "def total(prices):\n    return max(prices)\n\n\ndef count(prices):\n    return len(prices)\n",
    "test_shop.py": "import unittest\n",
}
TESTS = """\
import unittest
from shop import count, total


class Shop(unittest.TestCase):
    def test_total(self):
        self.assertEqual(total([1, 2]), 3)

    def test_count(self):
        self.assertEqual(count([1, 2]), 2)


unittest.main(argv=["x"])
"""
# A stand-in for pytest, which the machine's own Python need not have: the ids' outcomes in its report's form.
RUNNER = """python3 -c '
import sys, unittest
import xml.etree.ElementTree as ET
sys.argv, path = sys.argv[:1], [a for a in sys.argv if a.startswith("--junitxml=")][0][11:]
unittest.main = lambda **k: None
import test_shop
root = ET.Element("testsuite")
for name in unittest.TestLoader().getTestCaseNames(test_shop.Shop):
    case = ET.SubElement(root, "testcase", file="test_shop.py", classname="test_shop.Shop", name=name)
    if not unittest.TextTestRunner(stream=sys.stderr).run(test_shop.Shop(name)).wasSuccessful():
        ET.SubElement(case, "failure")
ET.ElementTree(root).write(path)
'"""
FIX = """diff --git a/shop.py b/shop.py
--- a/shop.py
+++ b/shop.py
@@ -1,3 +1,3 @@
 def total(prices):
-    return max(prices)
+    return sum(prices)
"""
FIX += " \n"  # a context line
FAKE_PASS = """import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.outcome, report.longrepr = "passed", None
"""
RIGHT = call(("bash", json.dumps({"command": "sed -i s/max/sum/ shop.py"})))
BREAKS = call(("bash", json.dumps({"command": "sed -i 's/max/sum/; s/len/str/' shop.py"})))
PASSES = (
    "import unittest\nclass Shop(unittest.TestCase):\n    def test_total(self): pass\n    test_count = test_total\n"
)
CHEATS = call(("write_file", json.dumps({"path": "test_shop.py", "content": PASSES, "overwrite": True})))


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_source(tmp_path / "shop", BUGGY)


def lines(repo: Path, *names: str, **more: object) -> list[dict]:
    commit = git(repo, "rev-parse", "HEAD")
    (repo / "test_shop.py").write_text(TESTS)
    test_patch = git(repo, "diff") + "\n"
    git(repo, "checkout", "-q", ".")
    return [
        {
            "instance_id": name,
            "repo": "shop",
            "base_commit": commit,
            "problem_statement": "total() is wrong\n\nIt gives the largest price.",
            "FAIL_TO_PASS": json.dumps(["test_shop.py::Shop::test_total"]),
            "PASS_TO_PASS": ["test_shop.py::Shop::test_count"],
            "test_patch": test_patch,
            "version": "of SWE-bench, not read here",
            "test_command": RUNNER,
        }
        | more
        for name in names
    ]


def written(path: Path, values: list[dict]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


class Model(FakeModel):
    """Each conversation plays the next of `plays`."""

    def __init__(self, *plays: list[Answer]) -> None:
        super().__init__()
        self.plays = list(plays)

    def open(self, system, tools) -> FakeConversation:
        return FakeModel(*self.plays.pop(0)).open(system, tools)

    def close(self) -> None: ...


def evaluate(monkeypatch, store: Store, instances, *plays: list[Answer], told=lambda _: None) -> None:
    monkeypatch.setattr(compose, "make_model", lambda _: Model(*plays))
    here = Settings(isolation=Isolation.BASIC, sandbox="bwrap", tools=(), review=False)
    run.evaluate(here, instances, store, parallel=1, told=told)


def test_solved_scored_and_written(repo: Path, tmp_path: Path, monkeypatch):
    instances = read(written(tmp_path / "i.jsonl", lines(repo, "right", "breaks", "cheats")))
    store = Store(tmp_path / "out")
    seen: list[str] = []
    done = say("done")
    evaluate(monkeypatch, store, instances, [RIGHT, done], [BREAKS, done], [CHEATS, done],
             told=lambda result: seen.append(result.instance_id))  # fmt: skip
    right, breaks, cheats = (store.results[name] for name in ("right", "breaks", "cheats"))
    assert seen == ["right", "breaks", "cheats"]
    assert (right.resolved, right.exit_status, right.steps, right.telemetry.first_edit) == (True, "submitted", 2, 1)
    assert right.usage.prompt > 0
    assert (breaks.resolved, breaks.failing, breaks.worse) == (False, (), ("test_shop.py::Shop::test_count",))
    assert (cheats.resolved, cheats.failing) == (False, ("test_shop.py::Shop::test_total",))
    predictions = [json.loads(line) for line in store.predictions().read_text().splitlines()]
    assert [set(line) for line in predictions] == [{"instance_id", "model_name_or_path", "model_patch"}] * 3
    assert "+    return sum(prices)" in predictions[0]["model_patch"]
    assert len(list((tmp_path / "out" / "trajectories").iterdir())) == 3
    for path in report.write(tmp_path / "out", list(store.results.values()), 3):
        assert "resolved 1 of 3" in path.read_text()


def test_a_killed_eval_goes_on_and_does_nothing_twice(repo: Path, tmp_path: Path, monkeypatch):
    instances = read(written(tmp_path / "i.jsonl", lines(repo, "a", "b")))
    with pytest.raises(ModelUnavailable):
        evaluate(monkeypatch, Store(tmp_path / "out"), instances, [RIGHT, say("done")], [ModelUnavailable("down")])
    results = tmp_path / "out" / "results.jsonl"
    assert [json.loads(line)["instance_id"] for line in results.read_text().splitlines()] == ["a"]
    with results.open("a") as file:
        file.write('{"instance_id": "b", "mod')  # killed in mid-line
    store = Store(tmp_path / "out")
    seen: list[str] = []
    evaluate(monkeypatch, store, instances, [RIGHT, say("done")], told=lambda result: seen.append(result.instance_id))
    assert seen == ["b"]
    assert [result.resolved for result in read_results(tmp_path / "out")] == [True, True]


class Server(FakeOpenAIServer):
    """Repairs what it is asked for; while `slow`, some instances meet a command that does not end."""

    slow = True

    def next_reply(self, headers, body):
        super().next_reply(headers, body)
        done = sum(message["role"] == "assistant" for message in body["messages"])
        if done:
            return Reply("done")
        for name, command in ENDLESS.items():
            if self.slow and f"({name})" in json.dumps(body["messages"]):
                return Reply(calls=(("a12345678", "bash", json.dumps({"command": f"{command}; true"})),))
        return Reply(calls=(("a12345678", "bash", RIGHT.message.tool_calls[0].arguments),))

    def asked(self) -> set[str]:
        texts = (json.dumps(body["messages"]) for _, body in self.requests)
        return {name for text in texts for name in ("quick", "slow-1", "slow-2", "later") if f"({name})" in text}


ENDLESS = {"slow-1": "sleep 86431.1", "slow-2": "sleep 86431.2"}


def test_an_interrupted_eval_keeps_what_is_finished_leaves_no_process_and_goes_on(repo: Path, tmp_path: Path):
    """Two at once, as the commands that wait show. Red without `cancel`: Ctrl-C would wait for them."""
    values = [
        line | {"problem_statement": f"total() is wrong ({line['instance_id']})", "repo": str(repo)}
        for line in lines(repo, "quick", "slow-1", "slow-2", "later")
    ]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "worker.cli", "eval", str(written(tmp_path / "i.jsonl", values)), "--json"]
    command += ["--parallel", "2", "--output", str(out)]
    here = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "DEVSTRAL_FIX_REVIEW": "false"}, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Server() as server:
        command += ["--model", f"openai:{server.url}#m"]
        running = subprocess.Popen(command, start_new_session=True, **here, **pipes)
        try:
            assert wait_for(lambda: all(alive(command) for command in ENDLESS.values()), 60), "two are at work at once"
            os.killpg(running.pid, signal.SIGINT)  # as a terminal does
            _, told = running.communicate(timeout=30)
        finally:
            left = sum(map(end, ENDLESS.values()))
            running.kill()
        assert left == 0, "processes of the sandboxes are left"
        assert running.returncode != 0
        assert "Traceback" not in told
        assert [result.instance_id for result in read_results(out)] == ["quick"]
        assert (out / "report.md").exists()
        assert server.asked() == {"quick", "slow-1", "slow-2"}
        server.requests.clear()
        server.slow = False
        done = subprocess.run(command, timeout=120, check=False, **here, **pipes)
        assert server.asked() == {"slow-1", "slow-2", "later"}
    assert done.returncode == 0, done.stderr
    assert [result["resolved"] for result in json.loads(done.stdout)] == [True] * 4
    assert sorted(result.instance_id for result in read_results(out)) == ["later", "quick", "slow-1", "slow-2"]


def test_results_of_another_model_are_not_mixed_in(repo: Path, tmp_path: Path, monkeypatch):
    store = Store(tmp_path / "out")
    store.add(Result(instance_id="a", model="another", resolved=True))
    with pytest.raises(SettingsError, match="another"):
        evaluate(monkeypatch, store, read(written(tmp_path / "i.jsonl", lines(repo, "b"))), [say("done")])


def test_what_is_permanent_is_the_instances_result(repo: Path, tmp_path: Path, monkeypatch):
    instances = read(written(tmp_path / "i.jsonl", lines(repo, "a", base_commit="0" * 40)))
    store = Store(tmp_path / "out")
    evaluate(monkeypatch, store, instances)
    assert (store.results["a"].resolved, store.results["a"].exit_status) == (False, None)
    assert store.results["a"].error.startswith("RepositoryRefused")


def test_gold_resolves_and_nothing_does_not(tmp_path: Path):
    here = place(tmp_path, BUGGY)
    (value,) = lines(tmp_path / "source", "a")
    scorer = Scorer(sandbox=here.sandbox, repositories=here.repos)
    instance = Instance.model_validate(value | {"repo": tmp_path})
    assert scorer.score(instance, here.git_dir, FIX).resolved
    assert not scorer.score(instance, here.git_dir, "").resolved
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(ShuttingDown):  # red where the tests are executed to their end
        scorer.score(instance, here.git_dir, FIX, cancelled)
    assert (
        "does not apply"
        in scorer.score(instance, here.git_dir, "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n").problem
    )


PYTEST = ["pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"]
CHECKS = "from shop import count, total\n\n\ndef test_total(right):\n    assert total([1, 2]) == right\n"
CHECKS += "\n\ndef test_count():\n    assert count([1, 2]) == 2\n"
RIGHT_FIXTURE = "import pytest\n\n\n@pytest.fixture\ndef right():\n    return 3\n"
FORGES = """import atexit
cases = "".join(f'<testcase classname="tests.test_shop" name="{n}"/>' for n in ("test_total", "test_count"))
report = f"<testsuites><testsuite>{cases}</testsuite></testsuites>"
atexit.register(lambda: open("/tmp/report.xml", "w").write(report))
"""
FORGED = {
    "a conftest": {"conftest.py": FAKE_PASS},
    "the test patch's own conftest": {
        "tests/conftest.py": f"{FAKE_PASS}\n\n@pytest.fixture\ndef right():\n    return 2\n"
    },
    "a plugin in the configuration": {"pytest.ini": "[pytest]\naddopts = -p fake\n", "fake.py": FAKE_PASS},
    "a runner": {"pytest.py": FORGES},
    "what every Python loads": {"sitecustomize.py": FORGES},
    "the tests": {"tests/test_shop.py": CHECKS.replace("== right", "!= right")},
}


@pytest.fixture(scope="module")
def with_pytest(tmp_path_factory):
    """An instance whose runner is pytest itself, and a way to score a change of its files."""
    folder = tmp_path_factory.mktemp("forged")
    for name in PYTEST:
        shutil.copytree(SITE / name, folder / "packages" / "site" / name)
    shutil.copy(SITE / "py.py", folder / "packages" / "site")
    bench = Bench(folder / "bench", {"shop.py": BUGGY["shop.py"], "tests/test_shop.py": "\n"})
    tests = bench.patch({"tests/test_shop.py": CHECKS, "tests/conftest.py": RIGHT_FIXTURE}).diff
    instance = Instance(
        instance_id="forged",
        repo=folder,
        base_commit=bench.base,
        problem_statement="total() is wrong",
        fail_to_pass=("tests/test_shop.py::test_total",),
        pass_to_pass=("tests/test_shop.py::test_count",),
        test_patch=tests,
        packages=folder / "packages",
    )
    scorer = Scorer(sandbox=bench.place.sandbox, repositories=bench.place.repos)
    return lambda changes: scorer.score(instance, bench.place.git_dir, bench.patch(changes).diff)


def test_how_an_instance_is_scored_is_not_its_patchs_to_say(with_pytest):
    """Red for each trick without what is held back."""
    fixed = {"shop.py": BUGGY["shop.py"].replace("max", "sum")}
    assert with_pytest(fixed).resolved
    assert with_pytest({**fixed, **FORGED["a conftest"]}).resolved, "nor does it lose by it"
    nothing = with_pytest({"shop.py": f"{BUGGY['shop.py']}\n"})
    assert (nothing.resolved, nothing.failing) == (False, ("tests/test_shop.py::test_total",))


@pytest.mark.parametrize("trick", FORGED)
def test_a_forging_patch_does_not_resolve_an_instance(with_pytest, trick):
    score = with_pytest(FORGED[trick])
    assert (score.resolved, score.failing, score.worse) == (False, ("tests/test_shop.py::test_total",), ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_commit": "main"}, "line 2: base_commit"),
        ({"FAIL_TO_PASS": "[not json"}, "line 2"),
        ({"FAIL_TO_PASS": []}, "line 2: FAIL_TO_PASS"),
        ({"problem_statement": ""}, "line 2: problem_statement"),
        ({"repo": "acme/shop"}, "line 2: repo: acme/shop is no directory"),
        ({"instance_id": "one"}, "line 2: one is there twice"),
    ],
)
def test_bad_lines_are_named(repo: Path, tmp_path: Path, change: dict, words: str):
    first, second = lines(repo, "one", "two")
    with pytest.raises(SettingsError, match=words):
        read(written(tmp_path / "i.jsonl", [first, second | change]))


@pytest.mark.parametrize("text", ["", "\n\n", "{broken", "[]", "3"])
def test_files_that_hold_none(tmp_path: Path, text: str):
    (tmp_path / "i.jsonl").write_text(text)
    with pytest.raises(SettingsError, match=r"i\.jsonl"):
        read(tmp_path / "i.jsonl")


def test_intervals():
    assert statistics.rate(0, 10).low == 0.0
    assert (round(statistics.rate(5, 10).low, 3), round(statistics.rate(5, 10).high, 3)) == (0.237, 0.763)
    assert statistics.rate(0, 0).low is None
    same = statistics.difference([1, 2, 3], [1, 2, 3])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gap = statistics.difference([0, 0, 1, 0] * 5, [1, 0, 1, 1] * 5)
    assert gap == statistics.difference([0, 0, 1, 0] * 5, [1, 0, 1, 1] * 5)  # a fixed seed
    assert 0 < gap.low < gap.value == 0.5 < gap.high < 1
    with pytest.raises(ValueError, match="no pairs"):
        statistics.difference([1], [])


def test_two_evals_side_by_side(tmp_path: Path):
    def store(name: str, solved: dict[str, bool]) -> Path:
        made = Store(tmp_path / name)
        for instance, resolved in solved.items():
            made.add(
                Result(instance_id=instance, model=f"m-\x1b]0;evil\x07{name}", resolved=resolved, steps=3, usd=0.1)
            )
        return tmp_path / name

    a = store("a", {"1": True, "2": False, "3": False, "only-a": True})
    b = store("b", {"1": True, "2": True, "3": True})
    command = [sys.executable, "-m", "worker.cli", "eval", "--compare", a, b]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "3 instances in both; 1 only in A, 0 only in B" in done.stdout
    assert "A resolved 33.3 %" in done.stdout
    assert "only B resolved: 2, 3" in done.stdout
    as_json = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert json.loads(as_json.stdout)["differences"]["resolved"]["value"] == pytest.approx(2 / 3)


def test_a_report_can_not_be_steered(tmp_path: Path):
    evil = Result(instance_id="<script>a|b", model="m", resolved=False, error="x\ny")
    markdown, page = report.write(tmp_path, [evil], 1)
    assert "<script>" not in page.read_text() + markdown.read_text()
    assert "a\\|b" in markdown.read_text()
