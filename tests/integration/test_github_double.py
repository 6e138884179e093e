"""The GitHub double itself: what it sends, whom it lets in, what it refuses, and that it leaves nothing running.

These show that the double does what we built it to do. Its repairs are our own reading of GitHub's documentation.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.events import Names
from api.webhooks import Received, parse
from tests.github_double import ROOT, app_forges, git, octokit_examples, push_branch, running_double
from worker.demo.github_double import GitHubDouble
from worker.errors import ForgeUnavailable

REPOSITORY = "acme/widgets"
FILES = {"a.py": "x = 1\n", "bin/run": "#!/bin/sh\n", "data.bin": b"\x00\xff"}


class Receiver:
    """A receiver that answers 202 and knows what came."""

    def __init__(self) -> None:
        came = self.came = []  # type: list[tuple[dict[str, str], bytes]]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                came.append((dict(self.headers.items()), body))
                self.send_response(202)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhooks/github"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHubDouble]:
    with running_double(tmp_path_factory.mktemp("double")) as double:
        double.create_repository(REPOSITORY, FILES)
        yield double


@pytest.fixture
def receiver(double: GitHubDouble) -> Iterator[Receiver]:
    receiver = Receiver()
    double.receiver_url = receiver.url
    yield receiver
    double.receiver_url = None
    double.clear_faults()
    receiver.stop()


def raw(
    double: GitHubDouble, method: str, path: str, token: str | None, value: object = None
) -> tuple[int, dict[str, Any]]:
    data = None if value is None else json.dumps(value).encode()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(double.api_url + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_labelling_sends_a_signed_webhook(double: GitHubDouble, receiver: Receiver) -> None:
    number = double.create_issue(REPOSITORY, "Bug", "Text")
    double.add_label(REPOSITORY, number, "devstral-fix")
    record = double.wait_for_delivery("issues", "labeled", matches=lambda r: r.payload["issue"]["number"] == number)
    assert (record.status, record.answer) == (202, b"ok")
    headers, body = next((h, b) for h, b in receiver.came if h["X-Github-Delivery"] == record.guid)
    assert body == record.body  # byte for byte
    expected = hmac.new(double.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Hub-Signature-256"] == f"sha256={expected}"
    parsed = parse(headers, body, secret=double.webhook_secret.encode(), names=Names(trigger_label="devstral-fix"))
    assert isinstance(parsed, Received)
    assert parsed.request is not None, parsed.ignored_reason
    assert parsed.request.model_dump(exclude={"issue_url", "asked_at", "sender_id"}) == {
        "kind": "start",
        "batch_id": None,
        "repository": REPOSITORY,
        "installation_id": double.installation_id,
        "issue_number": number,
        "title": "Bug",
        "body": "Text",
        "sender": "octo-admin",
        "sender_type": "User",
        "label": "devstral-fix",
        "discussed": False,
        "comment_id": None,
        "words": "",
    }


def test_our_own_label_can_come_from_a_stranger(double: GitHubDouble, receiver: Receiver) -> None:
    number = double.create_issue(REPOSITORY, "Bug", "Text", as_user="stranger")
    double.add_label(REPOSITORY, number, "devstral-fix", as_user="stranger")  # GitHub would need triage rights
    record = double.wait_for_delivery("issues", "labeled", matches=lambda r: r.payload["issue"]["number"] == number)
    assert record.payload["sender"]["login"] == "stranger"


def test_deliveries_have_a_guid_each_also_at_once(double: GitHubDouble, receiver: Receiver) -> None:
    numbers = [double.create_issue(REPOSITORY, f"n{n}", "") for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: double.add_label(REPOSITORY, number, "devstral-fix"), numbers))
    for number in numbers:
        double.wait_for_delivery("issues", "labeled", matches=lambda r, n=number: r.payload["issue"]["number"] == n)
    guids = [record.guid for record in double.deliveries()]
    assert len(set(guids)) == len(guids) >= 8


def test_deliver_and_redeliver(double: GitHubDouble, receiver: Receiver) -> None:
    payload = octokit_examples("issue_comment", "created")[0]
    first = double.deliver("issue_comment", payload)
    again = double.deliver("issue_comment", first.body, guid=first.guid)
    assert (first.status, again.status, again.guid) == (202, 202, first.guid)
    assert len([h for h, _ in receiver.came if h["X-Github-Delivery"] == first.guid]) == 2


def test_no_receiver_is_remembered_and_waiting_ends(double: GitHubDouble) -> None:
    assert double.deliver("ping", {"zen": "x"}).status is None
    double.receiver_url = "http://127.0.0.1:9/"
    assert double.deliver("ping", {"zen": "x"}).status is None
    double.receiver_url = None
    with pytest.raises(TimeoutError):
        double.wait_for_delivery("never", timeout=0.05)


def test_the_first_commit_depends_on_the_files_only(double: GitHubDouble) -> None:
    first = double.branch(REPOSITORY, "main")
    assert double.create_repository("acme/same", FILES) == first
    assert double.create_repository("acme/trunk", {"a.py": "y = 1\n"}, default_branch="trunk") != first
    assert double.call("GET", "/repos/acme/trunk")["default_branch"] == "trunk"
    assert double.repositories.read_file(REPOSITORY, "main", "data.bin") == b"\x00\xff"
    with pytest.raises(ValueError, match="acme"):
        double.create_repository("other/x", {})


@pytest.mark.parametrize(("method", "path"), [("GET", "/repos/acme/widgets"), ("POST", "/repos/acme/widgets/issues")])
def test_an_unknown_token_is_refused(double: GitHubDouble, method: str, path: str) -> None:
    issues = len(double.call("GET", "/repos/acme/widgets/issues?per_page=100"))
    for token in ("ghp_unknown", "", "eyJhbGciOi.eyJpc3MiOjEyMzQ1fQ.x"):
        status, _ = raw(double, method, path, token, {"title": "x"} if method == "POST" else None)
        assert status == (200 if token.startswith("eyJ") and method == "GET" else 401)  # public, read without a user
    assert len(double.call("GET", "/repos/acme/widgets/issues?per_page=100")) == issues


def test_clone_and_push_need_the_right_token(double: GitHubDouble, tmp_path: Path) -> None:
    forge = app_forges(double).open(REPOSITORY, None)
    read, write = (forge.git_token(access).get_secret_value() for access in ("read", "write"))
    url, work = double.git_url(REPOSITORY), tmp_path / "work"
    work.mkdir()
    for token in (None, "ghs_unknown"):
        refused = git("clone", url, ".", cwd=work, token=token)
        assert refused.returncode != 0
    assert git("clone", "--depth=1", "--filter=blob:none", url, ".", cwd=work, token=read).returncode == 0
    (work / "big.bin").write_bytes(os.urandom(3_000_000))  # large enough that git sends it in chunks
    git("checkout", "-q", "-b", "devstral/push", cwd=work)
    git("add", ".", cwd=work)
    assert git("commit", "-qm", "big", cwd=work).returncode == 0
    refused = git("push", "origin", "devstral/push", cwd=work, token=read)
    assert refused.returncode != 0
    assert "403" in refused.stderr
    assert double.branch(REPOSITORY, "devstral/push") is None
    stranger = git("push", "origin", "devstral/push", cwd=work, token=double.stranger_token)
    assert "403" in stranger.stderr
    assert git("push", "origin", "devstral/push", cwd=work, token=write).returncode == 0
    assert double.branch(REPOSITORY, "devstral/push") == git("rev-parse", "HEAD", cwd=work).stdout.strip()
    other = git("ls-remote", double.git_url("acme/same"), cwd=work, token=write)
    assert other.returncode != 0
    double.tokens.revoke(write)
    assert git("ls-remote", url, cwd=work, token=write).returncode != 0
    assert [entry.status for entry in double.requests("GET /acme/widgets.git/info/refs")][-1] == 401


def test_pull_requests_are_checked(double: GitHubDouble, tmp_path: Path) -> None:
    def create(**changes: str) -> tuple[int, str]:
        value = {"title": "T", "head": "feature", "base": "main"} | changes
        status, answer = raw(double, "POST", f"/repos/{REPOSITORY}/pulls", double.admin_token, value)
        return status, json.dumps(answer.get("errors"))

    assert create() == (422, '[{"resource": "PullRequest", "field": "head", "code": "invalid"}]')
    commit = push_branch(double, REPOSITORY, "feature", tmp_path / "work")
    assert double.branch(REPOSITORY, "feature") == commit
    assert create(base="absent")[0] == 422
    assert create(head="main")[0] == 422
    assert create()[0] == 201
    status, errors = create(head="acme:feature")
    assert status == 422
    assert "already exists for acme:feature" in errors
    assert [pull["head"]["ref"] for pull in double.pull_requests(REPOSITORY)].count("feature") == 1
    assert {e.repair for e in double.requests(f"POST /repos/{REPOSITORY}/pulls")} == {None, "create a pull request"}


def test_faults_are_taken_in_order_and_end(double: GitHubDouble, receiver: Receiver) -> None:
    path = f"/repos/{REPOSITORY}"
    double.fault(f"GET {path}", times=2, status=503, headers={"Retry-After": "7"}, body={"message": "no"})
    answers = [raw(double, "GET", path, double.admin_token)[0] for _ in range(3)]
    assert answers == [503, 503, 200]
    double.fault(f"GET {path}", delay=0.2, status=504)
    assert raw(double, "GET", path, double.admin_token)[0] == 504


def test_processed_but_the_answer_lost(double: GitHubDouble, receiver: Receiver) -> None:
    number = double.create_issue(REPOSITORY, "t", "b")
    forge = app_forges(double).open(REPOSITORY, None)
    double.fault(f"POST /repos/{REPOSITORY}/issues/{number}/comments", forward=True)
    with pytest.raises(ForgeUnavailable):
        forge.create_comment(number, "<!-- m -->")
    found = forge.find_comment(number, "<!-- m -->")
    assert found is not None
    assert [comment["id"] for comment in double.comments(REPOSITORY, number)] == [found.id]


def test_secrets_are_private(double: GitHubDouble) -> None:
    assert double.private_key_path.stat().st_mode & 0o777 == 0o600
    assert (double.root / "emulate.log").stat().st_mode & 0o777 == 0o600  # emulate prints its users' tokens
    assert not (double.root / "seed.yaml").exists()
    log = (double.root / "requests.jsonl").read_text()
    for secret in (double.admin_token, double.webhook_secret, "PRIVATE KEY", *double.tokens.minted()):
        assert secret not in log


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_emulate_ends_when_we_are_killed(double: GitHubDouble, tmp_path: Path) -> None:
    """A process that starts a double and is killed without any chance to clean up."""
    program = (
        "import sys, pathlib, signal; from worker.demo.github_double import GitHubDouble\n"
        "d = GitHubDouble(pathlib.Path(sys.argv[1]))\n"
        "print(d.emulator_pid, flush=True); signal.pause()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert _is_alive(pid)
        child.send_signal(signal.SIGKILL)
    watch = os.pidfd_open(pid) if _is_alive(pid) else None
    if watch is not None:
        import select

        readable, _, _ = select.select([watch], [], [], 10)
        os.close(watch)
        assert readable
    assert not _is_alive(pid)


def test_stopping_twice_and_starting_without_emulate(tmp_path: Path) -> None:
    with running_double(tmp_path / "a") as double:
        pid = double.emulator_pid
        double.stop()
        assert not _is_alive(pid)
    with pytest.raises(RuntimeError, match="make setup"):
        GitHubDouble(tmp_path / "b", node_modules=tmp_path)
    with pytest.raises(RuntimeError, match="did not start"):
        GitHubDouble(tmp_path / "c", node=("false",))
