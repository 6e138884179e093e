"""`devstral-fix triage` as people run it: a real process, a real HTTP server in the model's place."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.github_double import running_double

FORM = {"kind": "bug", "solvable": True, "reason": "r", "difficulty": "easy", "risk": "low", "files": ["src/a.py"]}


class Judge(FakeOpenAIServer):
    """Answers by what it is asked: odd issues can be solved. Issue 13's first answer breaks the form."""

    broken = 0

    def next_reply(self, headers, body):
        with self._lock:
            self.requests.append((headers, body))
        number = int(re.search(r"^Issue #(\d+),", body["messages"][1]["content"], re.MULTILINE)[1])
        if number == 13 and len(body["messages"]) == 2:
            self.broken += 1
            return Reply(calls=((None, "assess", '{"kind": "wonderful"}'),))
        form = FORM | {"solvable": number % 2 == 1, "files": ["src/a.py", "src/none.py"]}
        return Reply(calls=((None, "assess", json.dumps(form)),))


def words(number):
    return " ".join(f"w{(number * 7919 + i * i * 104729) % 99991}" for i in range(12))


def backlog(path: Path, count: int) -> Path:
    issues = [{"number": n, "title": words(n), "body": words(n + 1000), "labels": ["a"]} for n in range(1, count + 1)]
    path.write_text(json.dumps(issues))
    return path


def triage(*arguments, code=0, env=None):
    command = [sys.executable, "-m", "worker.cli", "triage", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("")
    git = ["git", "-C", str(root), "-c", "user.name=T", "-c", "user.email=t@example.invalid"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    return root


def test_a_backlog_from_file_to_reports(tmp_path, repository):
    file = backlog(tmp_path / "issues.json", 60)
    with Judge() as server:
        options = (file, "--repo", repository, "--model", f"openai:{server.url}#m", "--keep", tmp_path / "kept")
        reports = ("--csv", tmp_path / "a.csv", "--markdown", tmp_path / "a.md")
        done = json.loads(triage(*options, *reports, "--json").stdout)
        assert (done["advised"], done["asked"], len(done["issues"]), server.broken) == (30, 60, 60, 1)
        assert [one["number"] for one in done["issues"][:30]] == list(range(1, 60, 2))
        assert done["issues"][0]["files"] == ["src/a.py"]
        assert done["issues"][0]["dropped"] == ["1 path that the repository does not have"]
        assert len(server.requests) == 61
        again = triage(*options, "--limit", 10)
        assert len(server.requests) == 61, "it was answered before"
    lines = again.stdout.splitlines()
    assert lines[0].split() == ["rank", "issue", "kind", "difficulty", "risk", "title", "why"]
    assert lines[1].startswith("1     #1")
    assert lines[-3:-1] == ["10 issues: 5 worth an attempt, 5 not", lines[-2]]
    assert "0 asked now, 10 answered before" in lines[-2]
    with (tmp_path / "a.csv").open() as rows:
        assert sum(row["solvable"] == "True" for row in csv.DictReader(rows)) == 30
    assert "## Worth an attempt" in (tmp_path / "a.md").read_text()


def test_a_repository_on_github(tmp_path):
    with running_double(tmp_path / "double") as double, Judge() as server:
        double.create_repository("acme/backlog", {"README.md": "hello\n"})
        for number in range(1, 5):
            double.create_issue("acme/backlog", words(number), "")
        double.call("PATCH", "/repos/acme/backlog/issues/3", {"state": "closed"})
        double.add_label("acme/backlog", 4, "bug")
        env = os.environ | {
            "DEVSTRAL_FIX_GITHUB_URL": double.api_url,
            "DEVSTRAL_FIX_GITHUB_APP_ID": str(double.app_id),
            "DEVSTRAL_FIX_GITHUB_APP_KEY_FILE": str(double.private_key_path),
            "DEVSTRAL_FIX_MODEL": f"openai:{server.url}#m",
        }
        done = json.loads(triage("acme/backlog", "--json", "--keep", tmp_path / "kept", env=env).stdout)
        assert [(one["number"], one["rank"]) for one in done["issues"]] == [(1, 1), (2, None), (4, None)]
        assert done["repository"] == "acme/backlog"
        only = json.loads(triage("acme/backlog", "--json", "--label", "bug", env=env).stdout)
        assert [one["number"] for one in only["issues"]] == [4]
        assert "404" in triage("acme/nowhere", env=env, code=3).stderr
    assert "neither a file nor OWNER/REPO" in triage(tmp_path / "absent.json", code=2).stderr


def test_a_dry_run_asks_nothing(tmp_path):
    with Judge() as server:
        file = backlog(tmp_path / "issues.json", 5)
        done = json.loads(triage(file, "--model", f"openai:{server.url}#m", "--dry-run", "--json").stdout)
        assert server.requests == []
    assert (done["issues"], done["asked"]) == (5, 5)
    assert 1_000 < done["prompt_tokens"] < 10_000


def test_a_budget_of_nothing_asks_nothing_and_says_so(tmp_path):
    with Judge() as server:
        file = backlog(tmp_path / "issues.json", 5)
        done = triage(file, "--model", f"openai:{server.url}#m", "--budget-usd", 0, code=1)
        assert server.requests == []
    assert "not all were asked: the budget is used up" in done.stdout


def test_a_model_that_is_not_there(tmp_path):
    with Judge() as server:
        url = server.url
    file = backlog(tmp_path / "issues.json", 5)
    done = triage(file, "--model", f"openai:{url}#m", "--concurrency", 1, code=3)
    assert "3 questions in a row had no answer" in done.stderr


def test_a_file_with_nothing_to_do(tmp_path):
    file = backlog(tmp_path / "issues.json", 3)
    assert "no open issue" in triage(file, "--label", "other", code=1).stderr
    file.write_text("[]")
    assert "no open issue" in triage(file, code=1).stderr
    file.write_text("{}")
    assert "no JSON list" in triage(file, code=2).stderr


def test_two_hundred_issues_are_quick(tmp_path):
    """Our own time: the server answers at once."""
    file = backlog(tmp_path / "issues.json", 200)
    with Judge() as server:
        began = time.monotonic()
        done = json.loads(triage(file, "--model", f"openai:{server.url}#m", "--json").stdout)
        seconds = time.monotonic() - began
    assert done["asked"] == 200
    assert seconds < 60, "20 s is the goal on a machine that does nothing else"
