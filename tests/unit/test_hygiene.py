"""Patches that must not leave the house, made by real git where the diff matters."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.hygiene import HygienePolicy, check, is_test_path, printable, sections_by_path
from agent.outcome import FileChange, Patch


def git(cwd: Path, *args: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *who, *args], cwd=cwd, check=True, capture_output=True).stdout.decode(
        errors="surrogateescape"
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "code.py").write_text("one\ntwo\n")
    (tmp_path / "link").symlink_to("code.py")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "base")
    return tmp_path


def patch_of(repository: Path) -> Patch:
    """What host-side git would report of the work tree's change."""
    git(repository, "add", "-A")
    raw = git(repository, "diff", "--cached", "--raw", "-z", "--no-renames", "HEAD").split("\0")[:-1]
    numbers = {}
    for entry in git(repository, "diff", "--cached", "--numstat", "-z", "--no-renames", "HEAD").split("\0")[:-1]:
        added, removed, path = entry.split("\t")
        numbers[path] = (None, None) if added == "-" else (int(added), int(removed))
    changes = []
    for meta, path in zip(raw[::2], raw[1::2], strict=True):
        old, new, _, _, status = meta[1:].split(" ")
        added, removed = numbers.get(path, (0, 0))
        changes.append(FileChange(path=path, status=status, old_mode=old, new_mode=new, added=added, removed=removed))
    diff = git(repository, "diff", "--cached", "--binary", "--no-renames", "HEAD")
    return Patch(base_commit="0" * 40, tree="1" * 40, diff=diff, files=tuple(changes))


def rules(patch: Patch, **policy: object) -> set[tuple[str, str]]:
    return {(found.path, found.rule) for found in check(patch, HygienePolicy.model_validate(policy))}


def write(path: str, content: bytes = b"x\n") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    change.__name__ = f"write {path!a}"
    return change


def link(path: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(target)

    change.__name__ = f"link {path} {target}"
    return change


def delete(root: Path) -> None:
    (root / "code.py").unlink()


def make_executable(root: Path) -> None:
    (root / "code.py").chmod(0o755)


@pytest.mark.parametrize(
    "change",
    [
        write("code.py", b"one\n2\n"),
        write("new/with space.py"),
        write("ünïcode/日本.py"),
        write('quo"te\\.py'),
        write("empty", b""),
        write("tricky.txt", b"diff --git a/x b/x\nnew file mode 160000\n--- a/x\n+++ b/x\n\x0cdiff --git a/y b/y\n"),
        write(".gitignore"),
        write(".github/ISSUE_TEMPLATE.md"),
        link("docs/link", "../code.py"),
        link("link", "new-target"),
        delete,
        make_executable,
    ],
)
def test_ordinary_changes_pass(repository: Path, change: Callable[[Path], None]):
    change(repository)
    patch = patch_of(repository)
    assert len(patch.files) == 1
    assert set(sections_by_path(patch.diff)) == {patch.files[0].path}
    assert check(patch) == ()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (write(".github/workflows/ci.yml"), (".github/workflows/ci.yml", "workflow")),
        (write(".gitmodules"), (".gitmodules", "submodule")),
        (write("sub/.GITMODULES"), ("sub/.GITMODULES", "submodule")),
        (link("abs", "/etc/passwd"), ("abs", "symlink")),
        (link("d/up", "../../outside"), ("d/up", "symlink")),
        (link("up", ".."), ("up", "symlink")),
        (link("in", "d/../.git/config"), ("in", "symlink")),
        (link("code.py", "/etc/passwd"), ("code.py", "symlink")),
        (link("link", "/etc/passwd"), ("link", "symlink")),
        (write("blob.bin", b"\0\1\2" * 100), ("blob.bin", "binary")),
        (write("big.txt", b"line of text\n" * 100_000), ("big.txt", "size")),
        (write("a\x01b"), ("a\x01b", "path")),
        (write("a\nb"), ("a\nb", "path")),
        (write("a\u202eb"), ("a\u202eb", "path")),
    ],
)
def test_changes_that_are_refused(repository: Path, change: Callable[[Path], None], found: tuple[str, str]):
    change(repository)
    assert found in rules(patch_of(repository))


def test_a_gitlink_is_refused_new_and_removed(repository: Path):
    inner = repository / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    git(inner, "commit", "-q", "--allow-empty", "-m", "x")
    assert rules(patch_of(repository)) == {("inner", "submodule")}
    git(repository, "commit", "-qm", "with gitlink")
    git(repository, "rm", "-q", "--cached", "inner")
    (inner / ".git").rename(repository.parent / "elsewhere-git")
    assert rules(patch_of(repository)) == {("inner", "submodule")}


def test_owners_may_loosen_and_tighten(repository: Path):
    write(".github/workflows/ci.yml")(repository)
    write("blob.bin", b"\0\1")(repository)
    write("secret/key.txt")(repository)
    found = rules(patch_of(repository), allow_workflows=True, allow_binaries=True, protected=("secret/*",))
    assert found == {("secret/key.txt", "protected")}


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        "a/.Git/hooks/x",
        ".git /x",
        "git~1/config",
        ".git./x",
        ".g\u200cit/x",
        ".git::$INDEX_ALLOCATION/x",
    ],
)
def test_paths_some_file_system_takes_for_git_itself(path: str):
    change = FileChange(path=path, status="A", old_mode="000000", new_mode="100644", added=1, removed=0)
    assert (path, "git-internals") in rules(Patch(base_commit="0" * 40, tree="1" * 40, diff="", files=(change,)))


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../x", "a//b", ""])
def test_paths_that_are_not_plain(path: str):
    change = FileChange(path=path, status="A", old_mode="000000", new_mode="100644", added=1, removed=0)
    assert (path, "path") in rules(Patch(base_commit="0" * 40, tree="1" * 40, diff="", files=(change,)))


def added(*paths: str, **more: object) -> tuple[FileChange, ...]:
    shape = {"status": "A", "old_mode": "000000", "new_mode": "100644", "added": 1, "removed": 0, **more}
    return tuple(FileChange.model_validate({"path": path, **shape}) for path in paths)


def test_a_name_that_is_not_utf_8_is_refused_and_named():
    (change,) = added("caf\\xe9.txt", utf8=False)
    diff = 'diff --git "a/caf\\351.txt" "b/caf\\351.txt"\nnew file mode 100644\n--- /dev/null\n+++ "b/caf\\351.txt"\n'
    patch = Patch(base_commit="0" * 40, tree="1" * 40, diff=diff + "@@ -0,0 +1 @@\n+x\n", files=(change,))
    assert rules(patch) == {("caf\\xe9.txt", "path")}


@pytest.mark.parametrize(
    ("existing", "new"),
    [("README.md", "readme.md"), ("caf\u00e9", "cafe\u0301"), ("Stra\u00dfe", "strasse"), ("a/B.py", "A/b.py")],
)
def test_names_that_a_file_system_takes_for_one(existing: str, new: str):
    patch = Patch(base_commit="0" * 40, tree="1" * 40, diff="", files=added(new))
    assert [(v.path, v.rule) for v in check(patch, existing=(existing, "other"))] == [(new, "collision")]
    assert not check(patch, existing=("other",))
    gone = FileChange(path=existing, status="D", old_mode="100644", new_mode="000000", added=0, removed=1)
    assert not check(patch.model_copy(update={"files": (gone, *patch.files)}), existing=(existing,))
    both = patch.model_copy(update={"files": added(existing, new)})
    assert [(v.path, v.rule) for v in check(both)] == [(new, "collision")]


def test_a_path_is_shown_without_what_a_terminal_acts_on():
    assert printable("a\nb\x1b[2J\u202e\u00e9") == "a\\nb\\x1b[2J\\u202e\u00e9"


def test_a_symlink_whose_target_is_not_in_the_diff_is_refused():
    change = FileChange(path="x", status="A", old_mode="000000", new_mode="120000", added=1, removed=0)
    assert rules(Patch(base_commit="0" * 40, tree="1" * 40, diff="", files=(change,))) == {("x", "symlink")}


def test_a_file_in_the_diff_alone_is_refused(repository: Path):
    write("code.py", b"x\n")(repository)
    write("other.py")(repository)
    patch = patch_of(repository)
    assert rules(patch.model_copy(update={"files": patch.files[:1]})) == {("other.py", "unlisted")}


@pytest.mark.parametrize(
    "path",
    [
        "tests/data/x.json", "src/test/java/A.java", "test_a.py", "pkg/a_test.py", "conftest.py", "pkg/a_test.go",
        "src/a.spec.ts", "src/a.test.jsx", "src/__tests__/a.js", "spec/a_spec.rb", "src/FooTest.java", "FooTests.cs",
        "src/__snapshots__/a.test.js.snap", "src/__mocks__/fs.js",
    ],
)  # fmt: skip
def test_test_paths(path: str):
    assert is_test_path(path)


@pytest.mark.parametrize(
    "path", ["src/latest.py", "contest.py", "testing.py", "src/attest/a.py", "Contest.java", "a.py"]
)
def test_source_paths(path: str):
    assert not is_test_path(path)
