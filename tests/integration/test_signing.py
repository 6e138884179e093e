"""Commits that are signed: verified by git itself, the same again for the same input; which keys can be used."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

import pytest

from worker import compose
from worker.demo.github_double.bare import BareRepositories
from worker.errors import SettingsError
from worker.settings import Settings

WHO = "devstral-fix@users.noreply.github.com"


def key(folder, kind="ed25519", passphrase=""):
    path = folder / f"key-{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True, capture_output=True)
    return path


def test_a_signed_commit_is_verified_by_git_and_made_again_the_same(tmp_path):
    path = key(tmp_path)
    bare = BareRepositories(tmp_path / "origin")
    commit = bare.create("acme/textkit", {"a": "x\n"}, "main")
    repositories = compose.make_repositories(
        tmp_path, allow_file=True, signing_key=compose.signing_key(Settings(signing_key_file=path))
    )
    mirror = repositories.fetch("acme/textkit", f"file://{bare.path('acme/textkit')}", None)
    git_dir = repositories.run_dir("0" * 32, mirror)
    tree = repositories.apply(git_dir, commit, "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n")
    made = {
        repositories.commit(
            git_dir,
            tree=tree,
            parent=commit,
            message="Fix",
            author="devstral-fix",
            email=WHO,
            date=datetime(2026, 11, 27, tzinfo=UTC),
        )
        for _ in range(3)
    }
    assert len(made) == 1
    signers = tmp_path / "signers"
    signers.write_text(f"{WHO} {path.with_suffix('.pub').read_text()}")
    git = ["git", f"--git-dir={git_dir}", "-c", f"gpg.ssh.allowedSignersFile={signers}"]
    done = subprocess.run([*git, "verify-commit", made.pop()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'Good "git" signature for {WHO}' in done.stderr


def test_keys_that_can_t_be_used(tmp_path):
    (tmp_path / "none").write_text("no key")
    for path, why in (
        (tmp_path / "absent", "can't be used"),
        (tmp_path / "none", "can't be used"),
        (key(tmp_path, "rsa"), "is no Ed25519 key"),
        (key(tmp_path, passphrase="secret"), "can't be used"),
    ):
        with pytest.raises(SettingsError, match=why):
            compose.signing_key(Settings(signing_key_file=path))


@pytest.mark.parametrize("author", ["nobody", "a <b>", "a <b@c> x", "<b@c>", "a\nb <b@c>"])
def test_an_author_has_a_name_and_an_address(author):
    with pytest.raises(SettingsError, match="COMMIT_AUTHOR"):
        Settings.load(commit_author=author)
