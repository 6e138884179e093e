"""`devstral-fix up`: everything on one machine, stopped in order, its data still there the next time."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worker_processes import wait_until
from worker.demo.run import SCRIPT
from worker.up import free_port

pytestmark = pytest.mark.xdist_group("demo")
SECRET = "e2e"
READY_SECONDS = 60


def clean_environment():
    env = {k: v for k, v in os.environ.items() if not k.startswith("DEVSTRAL_FIX_")}
    return env | {"PYTHONPATH": str(Path(__file__).parents[2])}


@contextmanager
def up(directory: Path, port: int):
    env = clean_environment() | {
        "DEVSTRAL_FIX_MODEL": f"scripted:{SCRIPT}",
        "DEVSTRAL_FIX_WEBHOOK_SECRET": SECRET,
        "DEVSTRAL_FIX_GITHUB_TOKEN": "unused",
        "DEVSTRAL_FIX_GITHUB_URL": "http://127.0.0.1:1",
    }
    command = [sys.executable, "-m", "worker.cli", "up", "--isolation", "basic", "--port", str(port)]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, env=env, cwd=directory, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while get(port, "/readyz") != 200:
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.1)  # another process: asking is the only way to know
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def ping(port, guid):
    body = b"{}"
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "ping",
        "X-GitHub-Delivery": guid,
        "X-Hub-Signature-256": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest(),
    }
    request = urllib.request.Request(f"http://127.0.0.1:{port}/webhooks/github", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_up_starts_stops_in_order_and_keeps_its_data(tmp_path):
    tmp_path.chmod(0o711)
    port = free_port()
    with up(tmp_path, port) as process:
        assert ping(port, "guid-1")["new"] is True
        listed = subprocess.run(
            [sys.executable, "-m", "worker.cli", "runs", "list"],
            env={**clean_environment()},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (listed.returncode, listed.stdout) == (0, "None: no run was asked for yet.\n"), listed.stderr
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        started = {
            int(pid) for task in children.parents[1].iterdir() for pid in (task / "children").read_text().split()
        }
        assert len(started) >= 5, "API, three workers and beat"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert "isolation=basic; " in (tmp_path / "log").read_text().splitlines()[0]
    with up(tmp_path, port) as process:
        assert ping(port, "guid-1")["new"] is False, "the delivery was stored before the restart"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def command(directory, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        env=clean_environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
def test_a_drained_worker_is_started_again_or_not_as_was_asked(tmp_path):
    tmp_path.chmod(0o711)

    def gpu():
        listed = command(tmp_path, "workers", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        return [(one["name"], one["state"]) for one in json.loads(listed.stdout) if one["role"] == "gpu"]

    with up(tmp_path, free_port()) as process:
        wait_until(lambda: [state for _, state in gpu()] == ["running"])
        ((first, _),) = gpu()
        asked = command(tmp_path, "drain", "--profile", "small-24b", "--then", "restart", "--wait")
        assert asked.stdout == f"{first}: has ended\n", asked.stderr
        wait_until(lambda: [state for _, state in gpu()] == ["running"])
        ((second, _),) = gpu()
        assert second != first
        asked = command(tmp_path, "drain", second, "--then", "stop", "--wait")
        assert asked.stdout == f"{second}: has ended\n", asked.stderr
        wait_until(lambda: '"child_stays_ended"' in (tmp_path / "log").read_text())
        assert gpu() == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_up_ends_with_the_reason_of_a_worker_that_can_not_start(tmp_path):
    """Known only once the worker looks: what `up` can know before, it says before it starts anything."""
    tmp_path.chmod(0o711)
    (tmp_path / "tekken.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "up", "--isolation", "basic", "--port", str(free_port())],
        env=clean_environment()
        | {
            "DEVSTRAL_FIX_MODEL": "openai:http://127.0.0.1:1/v1#m",
            "DEVSTRAL_FIX_TEKKEN_FILE": str(tmp_path / "tekken.json"),
            "DEVSTRAL_FIX_GITHUB_TOKEN": "unused",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("devstral-fix: gpu can't start: ")
    assert "tekken.json" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--isolation", "basic"], {}, "DEVSTRAL_FIX_MODEL is not set"),
        (["--isolation", "basic"], {"MODEL": f"scripted:{SCRIPT}", "GITHUB_TOKEN": ""}, "GITHUB_APP_ID"),
        (["--isolation", "basic", "--port", "99999"], {"MODEL": f"scripted:{SCRIPT}"}, "99999 is not in the range"),
    ],
)
def test_up_says_what_is_missing_before_it_starts_anything(tmp_path, arguments, environment, told):
    given = {"GITHUB_TOKEN": "unused", **environment}
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "up", *arguments],
        env=clean_environment() | {f"DEVSTRAL_FIX_{k}": v for k, v in given.items()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".devstral-fix").exists()
