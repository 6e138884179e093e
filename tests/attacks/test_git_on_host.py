"""Row 16: a hostile repository runs nothing on the host. A trick leaves a marker file where plain git falls for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.protocols import Session
from tests.sandboxes import git, make_source, sh


@dataclass(frozen=True)
class Trick:
    """`script` makes the work tree hostile (`$EVIL` is a host program that leaves the marker); `falls` is the plain
    git command that runs it on the host, `$REMOTE` being a bare repository there."""

    script: str
    falls: tuple[str, ...]


def _hook(name: str, *falls: str) -> Trick:
    return Trick(f'hook "{name}"', falls)


SUBMODULE = """
git init -q sub
( cd sub; echo 1 >f; git add f; git -c user.name=a -c user.email=b commit -qm s )
printf '[submodule "sub"]\\n\\tpath = sub\\n\\turl = ./sub\\n\\tignore = none\\n' >.gitmodules
git add -f sub .gitmodules
"""
TRICKS = {
    "core.fsmonitor": Trick('git config core.fsmonitor "$EVIL"', ("status",)),
    "filter clean": Trick(
        'echo "* filter=evil" >.gitattributes; git config filter.evil.clean "$EVIL"; echo x >>app.py', ("diff",)
    ),
    "filter clean, add": Trick(
        'echo "* filter=evil" >.gitattributes; git config filter.evil.clean "$EVIL"; echo x >>app.py', ("add", "-A")
    ),
    "filter process": Trick(
        'echo "* filter=evil" >.gitattributes; git config filter.evil.process "$EVIL"; echo x >>app.py', ("add", "-A")
    ),
    "filter smudge": Trick(
        'echo "app.py filter=evil" >.gitattributes; git config filter.evil.smudge "$EVIL"; rm app.py',
        ("checkout", "--", "app.py"),
    ),
    "diff.external": Trick('git config diff.external "$EVIL"; echo x >>app.py', ("diff",)),
    "diff driver": Trick(
        'echo "* diff=evil" >.gitattributes; git config diff.evil.command "$EVIL"; echo x >>app.py', ("diff",)
    ),
    "textconv": Trick(
        'echo "* diff=evil" >.gitattributes; git config diff.evil.textconv "$EVIL"; echo x >>app.py', ("diff",)
    ),
    "include.path": Trick(
        'printf "[core]\\n\\tfsmonitor = %s\\n" "$EVIL" >evil.config; git config include.path ../evil.config',
        ("status",),
    ),
    "core.hooksPath": Trick(
        "git config core.hooksPath hooks; hook pre-commit hooks",
        ("commit", "-q", "--allow-empty", "-m", "x"),
    ),
    "gpg.program": Trick(
        'git config commit.gpgsign true; git config gpg.program "$EVIL"', ("commit", "-q", "--allow-empty", "-m", "x")
    ),
    "hook pre-commit": _hook("pre-commit", "commit", "-q", "--allow-empty", "-m", "x"),
    "hook reference-transaction": _hook("reference-transaction", "commit", "-q", "--allow-empty", "-m", "x"),
    "hook post-checkout": _hook("post-checkout", "checkout", "-q", "-b", "other"),
    "hook post-index-change": Trick("hook post-index-change; echo x >>app.py", ("add", "-A")),
    "hook pre-push": _hook("pre-push", "push", "-q", "$REMOTE", "HEAD:refs/heads/x"),
    "remote.receivepack": Trick(
        'git config remote.origin.url .; git config remote.origin.receivepack "$EVIL"',
        ("push", "-q", "origin", "HEAD:refs/heads/y"),
    ),
    "remote.uploadpack": Trick(
        'git config remote.origin.url .; git config remote.origin.uploadpack "$EVIL"', ("fetch", "-q", "origin")
    ),
    "url ext::": Trick(
        'git config protocol.ext.allow always; git config remote.origin.url "ext::$EVIL"', ("fetch", "-q", "origin")
    ),
    "nested repository's fsmonitor": Trick(SUBMODULE + 'git -C sub config core.fsmonitor "$EVIL"', ("status",)),
    "submodule's filter, same size": Trick(
        SUBMODULE
        + 'echo "* filter=evil" >sub/.gitattributes; echo 2 >sub/f; git -C sub config filter.evil.clean "$EVIL"',
        ("diff", "HEAD"),
    ),
    ".git file to elsewhere": Trick(
        'git config core.fsmonitor "$EVIL"; mv .git elsewhere; echo "gitdir: elsewhere" >.git', ("status",)
    ),
    "symlinked .git": Trick('git config core.fsmonitor "$EVIL"; mv .git real; ln -s real .git', ("status",)),
}
HOOK = """
hook() {
  folder="${2:-.git/hooks}"
  mkdir -p "$folder"
  printf '#!/bin/sh\\nexec "%s"\\n' "$EVIL" >"$folder/$1"
  chmod +x "$folder/$1"
}
set -e
"""


def evil(tmp_path: Path) -> tuple[Path, Path]:
    mark, program = tmp_path / "mark", tmp_path / "evil.sh"
    program.write_text(f'#!/bin/sh\ntouch "{mark}"\nexit 1\n')
    program.chmod(0o755)
    return mark, program


def whole_way(box, session: Session, tmp_path: Path, name: str) -> None:
    """Everything our adapters do with a workspace, its tree and a remote."""
    tree = session.snapshot()
    patch = box.repos.patch(box.git_dir, box.commit, tree)
    if all(change.new_mode != "160000" for change in patch.files):
        assert box.repos.apply(box.git_dir, box.commit, patch.diff) == tree
    box.repos.overlay(box.git_dir, box.commit, tree, [change.path for change in patch.files])
    for path in box.repos.list_files(box.git_dir, tree)[:20]:
        box.repos.read_file(box.git_dir, tree, path)
    commit = box.repos.commit(
        box.git_dir, tree=tree, parent=box.commit, message="m", author="a", email="a@example.invalid"
    )
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "-q", "--bare", str(remote))
    branch = f"b{abs(hash(name))}"
    box.repos.push(box.git_dir, url=f"file://{remote}", commit=commit, branch=branch, expected=None, token=None)
    assert git(remote, "rev-parse", f"refs/heads/{branch}") == commit
    session.reset(tree)
    assert session.snapshot() == tree
    session.reset(box.commit)


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_runs_nothing_on_the_host(box, row, tmp_path, name):
    mark, program = evil(tmp_path)
    trick = TRICKS[name]
    with box.session() as session:
        done = session.exec(["sh", "-c", HOOK + trick.script], env={"EVIL": str(program)}, timeout=60)
        assert done.returncode == 0, done
        whole_way(box, session, tmp_path, name)
    assert not mark.exists()

    folder = make_source(tmp_path / "control")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "EVIL": str(program),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    subprocess.run(["sh", "-c", HOOK + trick.script], cwd=folder, env=environment, check=True, capture_output=True)
    mark.unlink(missing_ok=True)
    remote = str(tmp_path / "control.git")
    git(tmp_path, "init", "-q", "--bare", remote)
    words = [word.replace("$REMOTE", remote) for word in trick.falls]
    options = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *options, *words], cwd=folder, env=environment, check=False, capture_output=True)
    assert mark.exists(), f"the control did not fall for it: git {' '.join(words)}"
    row(f"16 {name}", "no marker", control=f"marker by git {trick.falls[0]}")


def test_alternates_bring_nothing_in(box, row, tmp_path):
    """A workspace that claims the objects of a host repository gets none of them."""
    secret = make_source(tmp_path / "secret", {"key": "marker-of-a-secret\n"})
    blob = git(secret, "rev-parse", "HEAD:key")
    with box.session() as session:
        sh(session, f"echo {secret}/.git/objects >.git/objects/info/alternates; echo x >>app.py")
        assert sh(session, f"git cat-file blob {blob}").returncode != 0
        tree = session.snapshot()
        assert "marker-of-a-secret" not in box.repos.patch(box.git_dir, box.commit, tree).diff
    control = make_source(tmp_path / "control")
    (control / ".git/objects/info").mkdir(exist_ok=True)
    (control / ".git/objects/info/alternates").write_text(f"{secret}/.git/objects\n")
    assert git(control, "cat-file", "blob", blob) == "marker-of-a-secret"
    row("16 alternates to a host repository", "not there", control="open: read on the host")


def test_attributes_of_the_tree_do_not_shape_the_patch(box, row, tmp_path):
    """`-diff` or `binary` in a stranger's attributes would hide lines from reviewers."""
    with box.session() as session:
        sh(session, "echo '* -diff' >.gitattributes; echo hidden-line >>app.py")
        diff = box.repos.patch(box.git_dir, box.commit, session.snapshot()).diff
    assert "+hidden-line" in diff
    control = make_source(tmp_path / "control")
    (control / ".gitattributes").write_text("* -diff\n")
    with (control / "app.py").open("a") as out:
        out.write("hidden-line\n")
    plain = git(control, "diff")
    assert "Binary files" in plain
    assert "hidden-line" not in plain
    row("16 attributes that hide a change", "shown", control="open: hidden by git diff")


@pytest.mark.root_only
def test_another_uids_tree_is_the_second_barrier(row, tmp_path):
    """The controls above ran as the owner. git itself refuses a stranger's repository, where HOME is empty."""
    mark, program = evil(tmp_path)
    folder = make_source(tmp_path / "theirs")
    git(folder, "config", "core.fsmonitor", str(program))
    subprocess.run(["chown", "-R", "65534:65534", str(folder)], check=True)
    done = subprocess.run(
        ["git", "status"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        check=False,
    )
    assert b"dubious" in done.stderr
    assert not mark.exists()
    subprocess.run(["chown", "-R", f"{os.geteuid()}:{os.getegid()}", str(folder)], check=True)
    git(folder, "status")
    assert mark.exists()
    shutil.rmtree(folder)
    row("16 dubious ownership", "refused", control="marker by git status of its owner", level="both")
