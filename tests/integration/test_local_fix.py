"""`devstral-fix fix --repo`: on a real git repository, in the real sandbox, without queue and database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.evidence import Verdict
from agent.outcome import FileChange, Patch
from agent.trajectory import load
from agent.types import AgentResult, Price, Usage
from tests.factories import COMMIT, TREE
from tests.terminals import on_a_terminal
from worker import local
from worker.cli import cli
from worker.demo.github_double.bare import BareRepositories
from worker.demo.record import record
from worker.demo.run import SCRIPT
from worker.demo.seed import REPOSITORY, project_files
from worker.stages.attempt import Attempt

ISSUE = Path(__file__).parents[2] / "worker" / "demo" / "issue.md"


def git(repo, *arguments):
    command = ["git", "-C", str(repo), "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    target = tmp_path_factory.mktemp("script") / "script.json"
    record(SCRIPT, target, repository="textkit", number=None)
    return target


@pytest.fixture
def repo(tmp_path):
    bare = BareRepositories(tmp_path / "origin")
    bare.create(REPOSITORY, project_files(), "main")
    subprocess.run(["git", "clone", "-q", str(bare.path(REPOSITORY)), str(tmp_path / "textkit")], check=True)
    return tmp_path / "textkit"


def process(*arguments, cwd):
    """As a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", "fix", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**plain_environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=cwd,
    )


def plain_environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("DEVSTRAL_FIX_")}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def fix(*arguments, cwd, stdin=None, **variables):
    """The same in this process, which has loaded by now what a process of its own takes seconds for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(cwd)
        for name in set(os.environ) - set(plain_environment()):
            patched.delenv(name)
        for name, value in variables.items():
            patched.setenv(name, value)
        result = CliRunner().invoke(cli, ["fix", *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def test_the_patch_is_printed_and_the_repository_untouched(repo, script, tmp_path):
    before = git(repo, "status", "--porcelain", "--ignored"), git(repo, "rev-parse", "HEAD"), git(repo, "count-objects")
    done = process("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("isolation=basic; scripted by hand; no language model ran\n")
    assert "+        if line and len(line) + 1 + len(word) > width:" in done.stdout
    assert "outcome: fixed" in done.stderr
    assert before == (
        git(repo, "status", "--porcelain", "--ignored"),
        git(repo, "rev-parse", "HEAD"),
        git(repo, "count-objects"),
    )
    checked = subprocess.run(
        ["git", "-C", str(repo), "apply", "--check", "-"], input=done.stdout, text=True, check=False
    )
    assert checked.returncode == 0


def test_apply_output_json_and_trajectory(repo, script, tmp_path):
    patch, trajectory = tmp_path / "fix.patch", tmp_path / "t.jsonl"
    done = fix(
        "--repo", repo, "--issue-file", "-", "--model", f"scripted:{script}", "--apply", "--json",
        "--output", patch, "--trajectory", trajectory, cwd=tmp_path, stdin=ISSUE.read_text(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["outcome"], result["files"], result["steps"]) == ("fixed", ["textkit/wrapping.py"], 6)
    assert result["patch"] == patch.read_text()
    assert result["error"] is None
    assert 0 < result["cost_usd_low"] <= result["cost_usd"] == round(result["cost_usd"], 6)
    assert git(repo, "diff", "--name-only").split() == ["textkit/wrapping.py"]
    kinds = [json.loads(line).get("kind") for line in trajectory.read_text().splitlines()]
    assert len(kinds) >= 2 + 5 + 5


def test_several_tries_of_which_the_best_is_taken(repo, script, tmp_path):
    """The script's model says the same each time, so they agree and nothing is compared."""
    asked = ("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", "--json", "--samples", "2")
    done = fix(*asked, "--trajectory", tmp_path / "t.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "agent (try 2 of 2): submitted after 6 steps" in done.stderr
    assert "best of 2 tries: try 1, all of them made the same change" in done.stderr
    result = json.loads(done.stdout)
    assert [(one["temperature"], one["outcome"], one["chosen"]) for one in result["tries"]] == [
        (0.2, "fixed", True),
        (0.4, "fixed", False),
    ]
    assert result["cost_usd"] == pytest.approx(2 * result["tries"][0]["cost_usd"], abs=2e-6)
    assert [load(tmp_path / name).header.sampling.temperature for name in ("t.jsonl", "t-2.jsonl")] == [0.2, 0.4]
    done = fix(*asked, "--trajectory", tmp_path / "t-3.jsonl", "--samples", "1", cwd=tmp_path)
    assert json.loads(done.stdout)["tries"] == []
    (tmp_path / "u-2.jsonl").write_text("mine")
    done = fix(*asked, "--trajectory", tmp_path / "u.jsonl", cwd=tmp_path)
    assert (done.returncode, "u-2.jsonl exists" in done.stderr) == (2, True)


def test_apply_reaches_the_whole_work_tree_from_a_subdirectory_and_from_a_hook(repo, script, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    done = fix(
        "--repo", repo / "textkit", "--issue-file", ISSUE, "--model", f"scripted:{script}", "--apply", cwd=tmp_path,
        GIT_DIR=str(other / ".git"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert git(repo, "diff", "--name-only").split() == ["textkit/wrapping.py"]


def played(tmp_path, *commands):
    """A script whose model runs these shell commands, one a step, and submits, also after the review."""
    source = json.loads(SCRIPT.read_text())
    calls = [[{"name": "bash", "arguments": {"command": command}}] for command in commands]
    replies = [*({"content": "", "tool_calls": made} for made in calls), {"content": "Done."}, {"content": "Done."}]
    source["turns"] = [{"expect": [], "reply": reply} for reply in replies]
    (tmp_path / "source.json").write_text(json.dumps(source))
    record(tmp_path / "source.json", tmp_path / "script.json", repository="textkit", number=None)
    return f"scripted:{tmp_path / 'script.json'}"


def test_a_patch_steers_no_terminal_and_is_exact_in_a_file(repo, tmp_path):
    model = played(tmp_path, r"printf 'a\033]0;evil\007b\n' >textkit/note.txt")
    arguments = ["--repo", repo, "--issue-file", ISSUE, "--model", model]
    env = {**plain_environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    _, seen, errors = on_a_terminal([sys.executable, "-m", "worker.cli", "fix", *arguments], env=env, cwd=tmp_path)
    assert rb"+a\x1b]0;evil\x07b" in seen, errors
    assert not {0x1B, 0x07} & set(seen + errors)
    fix(*arguments, "--output", tmp_path / "patch", cwd=tmp_path)
    assert b"+a\x1b]0;evil\x07b\n" in (tmp_path / "patch").read_bytes()


def test_a_workspace_too_large_to_be_saved_keeps_the_patch_of_before(repo, tmp_path):
    model = played(tmp_path, "echo good >textkit/good.txt", "head -c 70000000 /dev/urandom >build.bin")
    done = fix("--repo", repo, "--issue-file", ISSUE, "--model", model, "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (result["files"], result["exit_status"], result["steps"]) == (["textkit/good.txt"], "submitted", 4)
    assert "the last changes could not be saved: they are larger than a snapshot may be" in done.stderr


def test_a_work_tree_in_the_way_loses_no_patch(repo, script, tmp_path):
    (repo / "textkit" / "wrapping.py").write_text("mine\n")
    done = fix("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", "--apply", cwd=tmp_path)
    assert done.returncode == 1
    assert "+        if line and len(line) + 1 + len(word) > width:" in done.stdout
    assert "outcome: fixed" in done.stderr
    assert "does not apply" in done.stderr
    assert (repo / "textkit" / "wrapping.py").read_text() == "mine\n"


@pytest.mark.parametrize("outcome", ["refused", "unsolved"])
def test_what_is_no_good_is_not_applied(outcome):
    result = local.LocalFix(
        attempt=Attempt(
            result=AgentResult(exit_status="submitted", reason="", steps=1, usage=Usage(), usd=0, seconds=0),
            patch=Patch(
                base_commit=COMMIT,
                tree=TREE,
                diff="x",
                files=(FileChange(path="x", status="M", old_mode="100644", new_mode="100644"),),
            ),
            prompt_hash="",
        ),
        verdict=Verdict(outcome=outcome, reason=""),
        evidence=(),
        usd_low=0.0,
    )
    assert not result.deliverable


def test_a_patch_that_can_not_be_written_is_printed(repo, script, tmp_path):
    done = fix(
        "--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", "--output", "/dev/full", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "/dev/full can't be written (No space left on device); here is the patch" in done.stderr
    assert "+        if line and len(line) + 1 + len(word) > width:" in done.stdout


def test_a_trajectory_that_can_not_be_written_costs_no_run(tmp_path):
    told = []
    with local._Kept(tmp_path / "t.jsonl", Price(prompt=1, completion=2), told.append) as journal:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, journal._file)
        os.close(full)
        for call in range(2):
            journal.spend(call, Usage(prompt=10), 0.1, 1.0)
    assert told == ["the trajectory can't be written (No space left on device): it ends here, the run goes on"]
    assert journal.usd_low > 0


def test_json_is_one_object_also_where_nothing_came_back(repo, script, tmp_path):
    (repo / ".devstral-fix.yml").write_text("setup: 'echo it broke; exit 7'\ntest: 'true'\n")
    git(repo, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qam", "set-up")
    asked = ("--repo", repo, "--issue-file", ISSUE, "--json", "--model")
    done = fix(*asked, f"scripted:{script}", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert said["outcome"] == "setup_failed"
    assert "it broke" in said["error"]
    done = fix(*asked, "openai:http://127.0.0.1:1/v1#m", "--no-setup", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert (done.returncode, said["outcome"]) == (3, None)
    assert "127.0.0.1:1" in said["error"]


def test_what_can_not_start_says_why(repo, script, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    empty = tmp_path / "empty.md"
    empty.write_text("\n")
    cases = [
        (("--repo", plain, "--issue-file", ISSUE, "--model", f"scripted:{script}"), 2, "is not a git repository"),
        (("--repo", repo, "--issue-file", ISSUE), 2, "DEVSTRAL_FIX_MODEL is not set"),
        (("--repo", repo, "--issue-file", ISSUE, "--model", "scripted:/nowhere.json"), 2, "No such file"),
        (("--repo", repo, "--issue-file", ISSUE, "--model", "vllm:x"), 2, "no model directory"),
        (
            ("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", "--output", tmp_path / "no" / "x"),
            2,
            "is no directory",
        ),
        (
            ("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", "--trajectory", empty),
            2,
            "exists",
        ),
        (("--repo", repo, "--issue-file", empty, "--model", f"scripted:{script}"), 2, "the file is empty"),
        *(
            (("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", option, "/proc/x"), 2, "/proc/x")
            for option in ("--output", "--trajectory")
        ),
    ]
    for arguments, status, told in cases:
        done = fix(*arguments, cwd=tmp_path)
        assert (done.returncode, told in done.stderr) == (status, True), (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_strict_is_given_or_refused_with_words(repo, script, tmp_path):
    """It depends on the machine's control groups; what never happens is a lower level under that name."""
    arguments = ("--repo", repo, "--issue-file", ISSUE, "--model", f"scripted:{script}", "--isolation", "strict")
    done = fix(*arguments, cwd=tmp_path)
    if done.returncode == 3:
        assert done.stderr.startswith("devstral-fix: ")
        assert "isolation=" not in done.stderr.partition("ask for")[0]
        assert done.stdout == ""
    else:
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("isolation=strict; ")
        assert "+        if line and len(line) + 1 + len(word) > width:" in done.stdout


def test_a_model_server_that_is_down_is_one_line(repo, tmp_path):
    done = fix("--repo", repo, "--issue-file", ISSUE, "--model", "openai:http://127.0.0.1:1/v1#m", cwd=tmp_path)
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_repository_needs_is_installed_first(repo, script, tmp_path):
    """Broken on purpose: whatever this machine's package clients say, the end is one of ours, with the log or the way
    out; and without set-up nothing of it is tried."""
    (repo / ".devstral-fix.yml").write_text("test: python3 -m unittest\nsetup: echo tried; exit 7\n")
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "set-up")
    issue = tmp_path / "issue.md"
    issue.write_text(ISSUE.read_text())
    ended = fix("--repo", repo, "--issue-file", issue, "--model", f"scripted:{script}", cwd=tmp_path)
    assert ended.returncode == 1
    assert "set-up: installing" in ended.stderr
    assert "the set-up failed (exit status 7)\ntried" in ended.stderr or "the set-up was refused" in ended.stderr
    skipped = fix("--repo", repo, "--issue-file", issue, "--model", f"scripted:{script}", "--no-setup", cwd=tmp_path)
    assert "set-up" not in skipped.stderr
