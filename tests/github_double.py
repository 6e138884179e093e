"""The GitHub double for tests: one per module, skipped with the reason where its npm package is missing."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from worker.adapters.forge import ClientOptions, Gate, GitHubForges, Passages, Rates
from worker.demo.github_double import GitHubDouble
from worker.demo.github_double.emulator import EmulateMissing, entry_point
from worker.demo.node import node_command
from worker.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
_EXAMPLES = ROOT / "node_modules" / "@octokit" / "webhooks-examples" / "api.github.com" / "index.json"


@contextmanager
def running_double(root: Path) -> Iterator[GitHubDouble]:
    try:
        entry_point()
        node_command()
    except (EmulateMissing, SettingsError) as missing:
        pytest.skip(str(missing))
    with GitHubDouble(root) as double:
        yield double


def octokit_examples(event: str, action: str | None = None) -> list[dict[str, Any]]:
    """Published payloads, read from the locked npm package; skips where it isn't installed."""
    if not _EXAMPLES.is_file():
        pytest.skip("the npm package @octokit/webhooks-examples is not installed: run `make setup`")
    entries = json.loads(_EXAMPLES.read_text(encoding="utf-8"))
    found = [example for entry in entries if entry["name"] == event for example in entry["examples"]]
    return [example for example in found if action is None or example.get("action") == action]


def octokit_all() -> list[tuple[str, dict[str, Any]]]:
    octokit_examples("issues")  # skips
    entries = json.loads(_EXAMPLES.read_text(encoding="utf-8"))
    return [(entry["name"], example) for entry in entries for example in entry["examples"]]


def options(double: GitHubDouble) -> ClientOptions:
    return ClientOptions(api_url=double.api_url, git_base_url=double.git_base_url, max_wait=2, retry_backoff=0)


def app_forges(double: GitHubDouble, clock: Callable[[], float] = time.monotonic) -> GitHubForges:
    """`clock`: what the gate holds of waits that GitHub asked for. No limits of our own."""
    gate = Gate(Rates(content_per_minute=0, content_per_hour=0, points_per_minute=0), clock=clock)
    return GitHubForges.for_app(double.app_id, double.private_key_path, options(double), Passages(gate=gate))


def git(*arguments: str, cwd: Path, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """Git with nobody's configuration; the token goes into a header, as the service does it."""
    command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.invalid"]
    if token is not None:
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        command += ["-c", f"http.extraHeader=Authorization: Basic {basic}"]
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=env | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def push_branch(double: GitHubDouble, repository: str, branch: str, where: Path) -> str:
    """A branch with one commit more than main, pushed over HTTP as the admin; returns its commit."""
    where.mkdir(parents=True)
    for arguments in (
        ("clone", "--quiet", double.git_url(repository), "."),
        ("checkout", "--quiet", "-b", branch),
        ("commit", "--quiet", "--allow-empty", "-m", f"work on {branch}"),
        ("push", "--quiet", "origin", branch),
    ):
        done = git(*arguments, cwd=where, token=double.admin_token)
        assert done.returncode == 0, done.stderr
    return git("rev-parse", "HEAD", cwd=where).stdout.strip()
