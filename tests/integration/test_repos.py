"""Host-side git: mirrors, patches, pushes; where tokens go and don't go; which failures are whose."""

from __future__ import annotations

import base64
import http.server
import inspect
import os
import socket
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from agent.hygiene import check, sections_by_path
from agent.outcome import Patch
from tests.sandboxes import git, make_source
from worker.adapters.repos import GitRepositories
from worker.adapters.repos import git as git_module
from worker.errors import BadPatch, RepositoryRefused, RepositoryUnavailable
from worker.stages.ports import Repositories

TOKEN = SecretStr("ghs_verysecrettoken1234567890")
BASIC = base64.b64encode(f"x-access-token:{TOKEN.get_secret_value()}".encode()).decode()


@pytest.fixture
def source(tmp_path):
    folder = make_source(tmp_path / "source", {"a.py": "one\n", "b/c.txt": "two\n", "bin.dat": "x\0y"})
    (folder / "latin.txt").write_bytes("caf\u00e9\n".encode("latin-1"))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "two")
    git(folder, "branch", "other")
    return folder


@pytest.fixture
def repos(tmp_path):
    return GitRepositories(tmp_path / "data", allow_file=True)


@pytest.fixture
def run(repos, source):
    """A run's repository and the commit it starts from."""
    mirror = repos.fetch("Owner/name", f"file://{source}", None)
    return repos.run_dir("run-1", mirror), repos.resolve(mirror, "main")


def tree_with(repos, run, diff: str) -> str:
    return repos.apply(*run, diff)


DIFF = """--- a/a.py
+++ b/a.py
@@ -1 +1,2 @@
 one
+more
"""


def test_it_is_the_port(repos):
    for name in (name for name in vars(Repositories) if not name.startswith("_")):
        assert callable(getattr(repos, name)), name
        assert [*inspect.signature(getattr(Repositories, name)).parameters][1:] == [
            *inspect.signature(getattr(repos, name)).parameters
        ]


def test_a_mirror_follows_its_source(repos, source):
    with pytest.raises(RepositoryUnavailable):
        repos.mirror("owner/name")
    mirror = repos.fetch("owner/name", f"file://{source}", None)
    assert repos.mirror("Owner/Name") == mirror
    assert repos.resolve(mirror, "other") == repos.resolve(mirror, "main") == git(source, "rev-parse", "main")
    git(source, "branch", "-D", "other")
    git(source, "commit", "--allow-empty", "-qm", "three")
    (mirror / "refs" / "heads").mkdir(parents=True, exist_ok=True)
    (mirror / "packed-refs.lock").touch()  # what a killed git leaves
    repos.fetch("owner/name", f"file://{source}", None)
    assert repos.resolve(mirror, "main") == git(source, "rev-parse", "main")
    with pytest.raises(RepositoryRefused):
        repos.resolve(mirror, "other")
    assert repos.resolve(mirror, git(source, "rev-parse", "main")) == git(source, "rev-parse", "main")
    with pytest.raises(RepositoryRefused):
        repos.resolve(mirror, "1" * 40)


def test_fetches_of_one_mirror_take_turns(repos, source):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: repos.fetch("owner/name", f"file://{source}", None), range(4)))
    assert len(set(made)) == 1
    git(made[0], "fsck", "--strict")


def test_what_a_run_writes_stays_out_of_the_mirror(repos, run):
    git_dir, commit = run
    tree = tree_with(repos, run, DIFF)
    assert repos.has_tree(git_dir, tree)
    assert not repos.has_tree(repos.mirror("owner/name"), tree)
    assert not repos.has_tree(git_dir, commit)
    assert not repos.has_tree(git_dir, "--help")
    assert repos.run_dir("run-1", repos.mirror("owner/name")) == git_dir
    repos.drop_run_dir("run-1")
    assert not git_dir.exists()


def test_a_run_from_a_persons_own_repository(repos, source, tmp_path):
    git(source, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    linked = Path((tmp_path / "linked" / ".git").read_text().split(": ")[1].strip())
    for number, own in enumerate((source / ".git", linked)):
        git_dir = repos.run_dir(f"own-{number}", own)
        assert repos.list_files(git_dir, git(source, "rev-parse", "main")) == (
            "a.py",
            "b/c.txt",
            "bin.dat",
            "latin.txt",
        )


def test_reading_files(repos, run):
    git_dir, commit = run
    assert repos.read_file(git_dir, commit, "a.py") == b"one\n"
    assert repos.read_file(git_dir, commit, "a.py", max_bytes=3) is None
    assert repos.read_file(git_dir, commit, "b") is None
    assert repos.read_file(git_dir, commit, "*.py") is None
    assert repos.list_files(git_dir, commit) == ("a.py", "b/c.txt", "bin.dat", "latin.txt")


def test_a_patch_names_modes_and_counts_and_applies_again(repos, run, source):
    git_dir, commit = run
    (source / "a.py").write_text("one\nmore\n")
    (source / "a.py").chmod(0o755)
    (source / "b" / "c.txt").unlink()
    (source / "b" / "c.txt").symlink_to("/etc/passwd")
    (source / "bin.dat").write_bytes(b"x\0z")
    (source / "latin.txt").write_bytes("caf\u00e9 \u00fc\n".encode("latin-1"))
    (source / 'n\u00e4w "q".txt').write_text("no newline")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "three")
    repos.fetch("owner/name", f"file://{source}", None)
    tree = git(source, "rev-parse", "main^{tree}")
    patch = repos.patch(git_dir, commit, tree)
    found = {f.path: (f.status, f.old_mode, f.new_mode, f.added, f.removed) for f in patch.files}
    assert found == {
        "a.py": ("M", "100644", "100755", 1, 0),
        "b/c.txt": ("T", "100644", "120000", 1, 1),
        "bin.dat": ("M", "100644", "100644", None, None),
        "latin.txt": ("M", "100644", "100644", 1, 1),
        'n\u00e4w "q".txt': ("A", "000000", "100644", 1, 0),
    }
    assert (patch.base_commit, patch.tree) == (commit, tree)
    assert repos.apply(git_dir, commit, patch.diff) == tree
    assert repos.patch(git_dir, commit, git(source, "rev-parse", f"{commit}^{{tree}}")).empty


def test_overlay_takes_just_the_paths_named(repos, run):
    git_dir, commit = run
    diff = DIFF + "--- /dev/null\n+++ b/new/x\n@@ -0,0 +1 @@\n+x\n--- a/b/c.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-two\n"
    tree = tree_with(repos, run, diff)
    mixed = repos.overlay(git_dir, commit, tree, ["new/x", "b/c.txt"])
    assert repos.list_files(git_dir, mixed) == ("a.py", "bin.dat", "latin.txt", "new/x")
    assert repos.read_file(git_dir, mixed, "a.py") == b"one\n"
    assert repos.overlay(git_dir, commit, tree, []) == repos.apply(git_dir, commit, "")


ODD = [
    b"a\nb", b"a\tb", b'"q"', b"-rf", b" ", b"..x", b"x" * 255, "\u202ecod".encode(), b"$(touch x)", b"caf\xe9.txt",
    b"latin\xff name.txt",
]  # fmt: skip


@pytest.mark.parametrize("content", [b"x\n", b"caf\xe9\n"], ids=["utf-8", "latin-1"])
def test_every_name_comes_through_a_patch(repos, run, source, content):
    """Also names that are not UTF-8: such a change is refused later, by name, and nothing of it is lost."""
    git_dir, commit = run
    for name in ODD:
        (Path(os.fsdecode(os.fsencode(source) + b"/" + name))).write_bytes(content)
    git(source, "add", "-A")
    tree = git(source, "write-tree")
    with tempfile.TemporaryFile() as pack:
        listed = subprocess.run(
            ["git", "-C", str(source), "pack-objects", "--revs", "--stdout", "-q"],
            input=f"{tree}\n".encode(), stdout=pack, check=True,
        )  # fmt: skip
        assert listed.returncode == 0
        pack.seek(0)
        repos.import_pack(git_dir, pack.read())
    patch = repos.patch(git_dir, commit, tree)
    shown = {change.path: change.utf8 for change in patch.files}
    assert len(shown) == len(ODD)
    assert {path for path, utf8 in shown.items() if not utf8} == {"caf\\xe9.txt", "latin\\xff name.txt"}
    assert set(sections_by_path(patch.diff)) == set(shown)
    assert repos.apply(git_dir, commit, patch.diff) == tree
    assert Patch.model_validate_json(patch.model_dump_json()) == patch
    refused = {violation.path for violation in check(patch)}
    assert refused >= {"caf\\xe9.txt", "latin\\xff name.txt", "a\nb", "a\tb", "\u202ecod"}


@pytest.mark.parametrize("diff", [DIFF.replace(" one", " two"), "nonsense", DIFF.replace("a.py", ".git/config")])
def test_a_patch_that_does_not_apply(repos, run, diff):
    with pytest.raises(BadPatch):
        repos.apply(*run, diff)


def test_commits_are_the_same_for_the_same_input(repos, run):
    git_dir, commit = run
    tree = tree_with(repos, run, DIFF)
    what = {"tree": tree, "parent": commit, "message": "Fix -x\n\n\u00fc", "author": "A", "email": "a@example.invalid"}
    when = datetime(2026, 1, 2, tzinfo=UTC)
    made = repos.commit(git_dir, **what, date=when)
    assert made == repos.commit(git_dir, **what, date=when)
    assert made != repos.commit(git_dir, **what)
    shown = git(git_dir, "log", "-1", "--format=%an|%ae|%P|%ct|%B", made)
    assert shown == f"A|a@example.invalid|{commit}|{int(when.timestamp())}|Fix -x\n\n\u00fc"


def test_a_strangers_pack_is_checked(repos, run):
    git_dir, _ = run
    for pack in (b"", b"PACK" + bytes(40), b"x" * 100):
        if pack[8:12] != bytes(4) or len(pack) < 12:
            with pytest.raises(BadPatch):
                repos.import_pack(git_dir, pack)
    # A tree whose file did not come along.
    lying = git(
        git_dir, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=b"100644 x\0" + bytes(range(20))
    )
    pack = subprocess.run(
        ["git", "-C", str(git_dir), "pack-objects", "--stdout", "-q"],
        input=lying.encode(),
        capture_output=True,
        check=True,
    ).stdout
    fresh = repos.run_dir("run-2", repos.mirror("owner/name"))
    with pytest.raises(BadPatch):
        repos.import_pack(fresh, pack)
    assert not repos.has_tree(fresh, lying)
    small = GitRepositories(git_dir.parent, max_pack_bytes=10)
    with pytest.raises(BadPatch):
        small.import_pack(git_dir, b"PACK" + bytes([0, 0, 0, 2, 0, 0, 0, 1]) + bytes(100))


@pytest.mark.parametrize(
    "name", ["-x", "--upload-pack=x", "a..b", "a b", "", "a.lock", "x~1", "@{u}", "a/", "/a", ".a", "a/.b", "x\n", "@"]
)
def test_names_that_are_not_branches(repos, run, source, name):
    git_dir, commit = run
    with pytest.raises(RepositoryRefused):
        repos.resolve(git_dir, name)
    with pytest.raises(RepositoryRefused):
        repos.remote_branch(f"file://{source}", name, None)
    with pytest.raises(RepositoryRefused):
        repos.push(git_dir, url=f"file://{source}", commit=commit, branch=name, expected=None, token=None)


@pytest.mark.parametrize("name", ["x", "../x/y", "-o/x", "o/..", "o/x/y", "o/x y", "o/\u00fc"])
def test_names_that_are_not_repositories(repos, source, name):
    with pytest.raises(RepositoryRefused):
        repos.fetch(name, f"file://{source}", None)
    with pytest.raises(RepositoryRefused):
        repos.run_dir("../x", source)


@pytest.mark.parametrize(
    "url", ["ssh://host.invalid/x", "ext::sh -c id", "git://host.invalid/x", "/etc", "https://u:p@host.invalid/x"]
)
def test_addresses_that_are_refused(repos, url):
    with pytest.raises(RepositoryRefused):
        repos.fetch("owner/name", url, None)
    with pytest.raises(RepositoryRefused):
        repos.remote_branch(url, "main", None)


def test_a_token_crosses_no_network_unencrypted(repos):
    with pytest.raises(RepositoryRefused, match="over https only"):
        repos.remote_branch("http://github.example.invalid/o/r.git", "main", SecretStr("secret-token"))


def test_files_are_refused_unless_allowed(tmp_path, source):
    with pytest.raises(RepositoryRefused):
        GitRepositories(tmp_path / "strict").fetch("owner/name", f"file://{source}", None)


def push(repos, run, url: str, branch: str, expected: str | None, *, message: str = "m", token=None) -> str:
    git_dir, commit = run
    made = repos.commit(
        git_dir, tree=tree_with(repos, run, DIFF), parent=commit, message=message, author="A", email="a@example.invalid"
    )
    repos.push(git_dir, url=url, commit=made, branch=branch, expected=expected, token=token)
    return made


def test_a_push_moves_a_branch_only_from_where_it_was_expected(repos, run, source, tmp_path):
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(source), str(bare))
    url = f"file://{bare}"
    assert repos.remote_branch(url, "devstral/issue-1", None) is None
    first = push(repos, run, url, "devstral/issue-1", None)
    assert repos.remote_branch(url, "devstral/issue-1", None) == first == git(bare, "rev-parse", "devstral/issue-1")
    with pytest.raises(RepositoryRefused):
        push(repos, run, url, "devstral/issue-1", None, message="other")
    with pytest.raises(RepositoryRefused):
        push(repos, run, url, "devstral/issue-1", "1" * 40, message="other")
    second = push(repos, run, url, "devstral/issue-1", first, message="not a descendant")
    assert repos.remote_branch(url, "devstral/issue-1", None) == second
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(RepositoryRefused, match="hook declined"):
        push(repos, run, url, "devstral/issue-1", second, message="third")
    with pytest.raises(RepositoryRefused):
        repos.remote_branch(f"file://{tmp_path}/nowhere", "main", None)


class Handler(http.server.BaseHTTPRequestHandler):
    """Smart HTTP by `git http-backend`, behind a token; or one answer for everything."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.seen.append(self.headers.get("Authorization"))
        if self.server.answer is not None:
            code, extra = self.server.answer
            self.send_response(code)
            for name, value in extra.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(f"you sent {self.headers.get('Authorization')}".encode())
            return
        if self.headers.get("Authorization") != f"Basic {BASIC}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "x",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815


@contextmanager
def serving(root: Path, answer=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.root, server.answer, server.seen = root, answer, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_token_goes_into_a_header_and_nowhere_else(repos, source, tmp_path, monkeypatch):
    git(tmp_path, "clone", "-q", "--bare", str(source), str(tmp_path / "served" / "r.git"))
    calls: list[str] = []

    class Recorded(subprocess.Popen):
        def __init__(self, argv, **more):
            calls.append(" ".join(argv))
            super().__init__(argv, **more)

    monkeypatch.setattr(git_module.subprocess, "Popen", Recorded)
    with serving(tmp_path / "served") as (server, base):
        url = f"{base}/r.git"
        mirror = repos.fetch("owner/name", url, TOKEN)
        run = repos.run_dir("run-1", mirror), repos.resolve(mirror, "main")
        made = push(repos, run, url, "devstral/issue-2", None, token=TOKEN)
        assert repos.remote_branch(url, "devstral/issue-2", TOKEN) == made
        with pytest.raises(RepositoryRefused):
            repos.remote_branch(url, "main", None)
        with pytest.raises(RepositoryRefused):
            repos.remote_branch(url, "main", SecretStr("wrong"))
        assert f"Basic {BASIC}" in server.seen
    assert calls
    secrets = (TOKEN.get_secret_value(), BASIC)
    assert not [call for call in calls for secret in secrets if secret in call]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not [secret for secret in secrets if secret.encode() in path.read_bytes()], path


@pytest.mark.parametrize(
    ("code", "error"),
    [(401, RepositoryRefused), (403, RepositoryRefused), (404, RepositoryRefused), (301, RepositoryRefused),
     (429, RepositoryUnavailable), (500, RepositoryUnavailable), (503, RepositoryUnavailable)],
)  # fmt: skip
def test_whose_failure_it_is_and_no_token_in_its_words(repos, tmp_path, code, error):
    with serving(tmp_path) as (other, elsewhere):
        extra = {"Location": f"{elsewhere}/r.git/info/refs?service=git-upload-pack"} if code == 301 else {}
        with serving(tmp_path, (code, extra)) as (server, base):
            with pytest.raises(error) as raised:
                repos.fetch("owner/name", f"{base}/r.git", TOKEN)
            assert server.seen
        assert other.seen == []
    for text in (str(raised.value), str(raised.value.__cause__)):
        assert TOKEN.get_secret_value() not in text
        assert BASIC not in text
    with pytest.raises(RepositoryUnavailable):
        repos.mirror("owner/name")


def test_a_server_that_is_not_there_or_does_not_answer(repos, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        impatient = GitRepositories(tmp_path / "impatient", network_timeout=0.5)
        with pytest.raises(RepositoryUnavailable, match="longer"):
            impatient.remote_branch(f"http://127.0.0.1:{port}/r.git", "main", TOKEN)
    with pytest.raises(RepositoryUnavailable):
        repos.remote_branch(f"http://127.0.0.1:{port}/r.git", "main", TOKEN)


def test_a_mirror_has_the_tags_that_lead_into_its_branches(repos, source):
    git(source, "tag", "v1")
    git(source, "tag", "-m", "annotated", "v2")
    git(source, "tag", "junk", git(source, "commit-tree", "-m", "alone", "HEAD^{tree}"))
    mirror = repos.fetch("owner/name", f"file://{source}", None)
    assert git(mirror, "tag", "--list").split() == ["v1", "v2"]
    git(source, "tag", "v3", "main~1")  # later, on what is there already
    repos.fetch("owner/name", f"file://{source}", None)
    assert git(mirror, "describe", "--tags", "--exact-match", "main~1") == "v3"


def test_a_mirror_stays_tidy_and_loses_nothing(repos, source, monkeypatch, caplog):
    monkeypatch.setattr("worker.adapters.repos.repositories.MOST_PACKS", 3)
    mirror = repos.fetch("owner/name", f"file://{source}", None)
    (mirror / "objects" / "pack" / "tmp_pack_dead").write_bytes(b"x")
    (source / "only-here.txt").write_text("read through a run's alternates\n")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "will be forced away")
    forced = git(source, "rev-parse", "main")
    repos.fetch("owner/name", f"file://{source}", None)
    run_dir = repos.run_dir("run-2", mirror)
    git(source, "reset", "-q", "--hard", "HEAD~1")
    counts = []
    for number in range(6):
        git(source, "commit", "--allow-empty", "-qm", f"more {number}")
        repos.fetch("owner/name", f"file://{source}", None)
        counts.append(len(list((mirror / "objects" / "pack").glob("*.pack"))))
    assert max(counts) <= 4  # packs that grow by twos are left alone
    assert repos.resolve(run_dir, forced) == forced
    assert repos.read_file(run_dir, forced, "only-here.txt") == b"read through a run's alternates\n"
    assert not (mirror / "objects" / "pack" / "tmp_pack_dead").exists()
    assert git(mirror, "fsck", "--connectivity-only", "--no-dangling") == ""
    assert "mirror_not_tidied" not in caplog.text
