"""Object-level git: trees, patches and commits, without any work tree that someone else could write to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

from agent.outcome import FileChange, Patch
from worker.adapters.repos.git import Git, GitFailed
from worker.adapters.repos.names import is_object_id, object_id
from worker.errors import BadPatch, RepositoryRefused, RepositoryUnavailable

_FILE_MODES = ("100644", "100755")
_DIFF = ("diff-tree", "-r", "--no-renames", "--no-ext-diff", "--no-textconv", "--full-index")


class ObjectStore:
    """Ids are full and lower-case; an id that isn't in `git_dir` is RepositoryRefused."""

    def __init__(self, git: Git, *, max_pack_bytes: int, signing_key: Path | None = None) -> None:
        """`signing_key`: a private key of SSH's, without a passphrase, that commits are signed with. Ed25519, whose
        signatures depend on nothing but what is signed: the same commit again has the same id."""
        self._git = git
        self._max_pack_bytes = max_pack_bytes
        self._signing_key = signing_key

    def read_file(self, git_dir: Path, tree: str, path: str, *, max_bytes: int = 65_536) -> bytes | None:
        entry = self._entries(git_dir, tree).get(path)
        if entry is None or entry[0] not in _FILE_MODES:
            return None
        if int(self._read(git_dir, "cat-file", "-s", entry[1])) > max_bytes:
            return None
        return self._read(git_dir, "cat-file", "blob", entry[1])

    def list_files(self, git_dir: Path, tree: str) -> tuple[str, ...]:
        entries = self._entries(git_dir, tree)
        return tuple(sorted(path for path, (mode, _) in entries.items() if mode in _FILE_MODES))

    def patch(self, git_dir: Path, base_commit: str, tree: str) -> Patch:
        """The difference as git's objects have it. A name that is not UTF-8 is shown with escapes, and marked."""
        ends = (object_id(base_commit), object_id(tree))
        changes = dict(_changes(self._read(git_dir, *_DIFF, "--raw", "--numstat", "-z", *ends)))
        diff = "".join(self._diffs(git_dir, ends, list(changes)))
        files = tuple(changes.values())
        return Patch(base_commit=base_commit, tree=self._tree_of(git_dir, tree), diff=diff, files=files)

    def overlay(self, git_dir: Path, base: str, tree: str, paths: Sequence[str]) -> str:
        source = self._entries(git_dir, tree)
        gone = [path for path in paths if path not in source]
        taken = [path for path in paths if path in source]
        # Removals first: a directory may take the place of a removed file.
        lines = [f"0 {'0' * len(object_id(base))}\t{path}\0" for path in gone]
        lines += [f"{source[path][0]} {source[path][1]}\t{path}\0" for path in taken]
        return self._edit(git_dir, base, ("update-index", "--replace", "-z", "--index-info"), "".join(lines).encode())

    def apply(self, git_dir: Path, base_commit: str, diff: str) -> str:
        if not diff.strip():
            return self._tree_of(git_dir, base_commit)
        try:
            return self._edit(git_dir, base_commit, ("apply", "--cached", "--whitespace=nowarn", "-"), diff.encode())
        except GitFailed as e:
            raise BadPatch(f"the patch does not apply: {e}") from e

    def commit(
        self,
        git_dir: Path,
        *,
        tree: str,
        parent: str,
        message: str,
        author: str,
        email: str,
        date: datetime | None = None,
    ) -> str:
        """A commit object; the same id for the same arguments, `date` included (now, unless given)."""
        moment = f"{int((date or datetime.now(UTC)).timestamp())} +0000"
        env: dict[str, str] = {}
        for role in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{role}_NAME": author, f"GIT_{role}_EMAIL": email, f"GIT_{role}_DATE": moment}
        args = ("commit-tree", object_id(tree), "-p", object_id(parent), "-F", "-")
        if self._signing_key is None:
            return self._id(git_dir, *args, stdin=message.encode(), env=env)
        settings = ("gpg.format=ssh", f"user.signingKey={self._signing_key}")
        return self._id(git_dir, *args, "-S", stdin=message.encode(), env=env, settings=settings)

    def import_pack(self, git_dir: Path, pack: bytes) -> None:
        """Store the objects of a pack that a stranger made: every object and link is checked. BadPatch if not."""
        if len(pack) >= 12 and pack[:4] == b"PACK" and pack[8:12] == bytes(4):
            return  # a pack without objects
        limit = f"--max-input-size={self._max_pack_bytes}"
        try:
            self._git.run(git_dir, "index-pack", "--stdin", "--strict", "--fix-thin", limit, stdin=pack)
        except GitFailed as e:
            raise BadPatch(f"git refuses the objects of the workspace: {e}") from e

    def has_tree(self, git_dir: Path, tree: str) -> bool:
        if not is_object_id(tree):
            return False
        try:
            return self._git.run(git_dir, "cat-file", "-t", tree).strip() == b"tree"
        except GitFailed:
            return False

    def holds(self, git_dir: Path, tree: str, base_commit: str) -> bool:
        if not self.has_tree(git_dir, tree):
            return False
        try:
            self._git.run(git_dir, "rev-list", "--objects", "--quiet", tree, f"^{self._tree_of(git_dir, base_commit)}")
        except GitFailed:
            return False
        return True

    def subjects(self, git_dir: Path, commit: str, count: int) -> tuple[str, ...]:
        out = self._read(git_dir, "log", "--first-parent", f"--max-count={count}", "--format=%s", object_id(commit))
        return tuple(out.decode("utf-8", "replace").splitlines())

    def merge_base(self, git_dir: Path, one: str, other: str) -> str:
        return self._id(git_dir, "merge-base", object_id(one), object_id(other))

    def _diffs(self, git_dir: Path, ends: tuple[str, str], names: Sequence[bytes]) -> Iterator[str]:
        patch = (*_DIFF, "-p", "--binary")
        try:
            yield self._read(git_dir, *patch, *ends).decode("utf-8")
        except UnicodeDecodeError:
            # Text of another encoding: such a file goes as a binary patch, so that the diff stays exact.
            for name in names:
                only = (*ends, "--", f":(literal,top){os.fsdecode(name)}")
                data = self._read(git_dir, *patch, *only)
                try:
                    yield data.decode("utf-8")
                except UnicodeDecodeError:
                    yield self._as_binary(git_dir, (*patch, *only)).decode("utf-8")

    def _as_binary(self, git_dir: Path, args: Sequence[str]) -> bytes:
        with tempfile.NamedTemporaryFile(prefix="devstral-fix-attributes-") as attributes:
            attributes.write(b"* -diff\n")
            attributes.flush()
            return self._git.run(git_dir, *args, settings=(f"core.attributesFile={attributes.name}",))

    def _entries(self, git_dir: Path, tree: str) -> dict[str, tuple[str, str]]:
        """Path → (mode, id) of every entry below a tree or commit; paths that are not UTF-8 are left out."""
        entries = {}
        for record in self._read(git_dir, "ls-tree", "-r", "-z", "--full-tree", object_id(tree)).split(b"\0"):
            head, _, name = record.partition(b"\t")
            try:
                path = name.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if path:
                mode, _, oid = head.decode("ascii").split(" ")
                entries[path] = (mode, oid)
        return entries

    def _edit(self, git_dir: Path, base: str, args: Sequence[str], stdin: bytes) -> str:
        """The tree after one index command on `base`, in an index that lives only here. Raises GitFailed."""
        with tempfile.TemporaryDirectory(prefix="devstral-fix-index-") as folder:
            env = {"GIT_INDEX_FILE": f"{folder}/index"}
            self._read(git_dir, "read-tree", object_id(base), env=env)
            self._git.run(git_dir, *args, stdin=stdin, env=env)
            return self._id(git_dir, "write-tree", env=env)

    def _tree_of(self, git_dir: Path, treeish: str) -> str:
        return self._id(git_dir, "rev-parse", "--verify", "--quiet", f"{object_id(treeish)}^{{tree}}")

    def _id(
        self,
        git_dir: Path,
        *args: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> str:
        text = self._read(git_dir, *args, stdin=stdin, env=env, settings=settings).decode("ascii", "replace").strip()
        if not is_object_id(text):
            raise RepositoryUnavailable(f"git {args[0]} answered {text[:80]!r}")
        return text

    def _read(
        self,
        git_dir: Path,
        *args: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> bytes:
        try:
            return self._git.run(git_dir, *args, stdin=stdin, env=env, settings=settings)
        except GitFailed as e:
            raise RepositoryRefused(f"git {args[0]}: {e}") from e


def _changes(raw: bytes) -> Iterator[tuple[bytes, FileChange]]:
    """Each changed name with its entry, from `--raw --numstat -z`: first `:mode mode id id status NUL path NUL` for
    all, then `added TAB removed TAB path`."""
    fields = raw.split(b"\0")[:-1]
    split = next((i for i in range(0, len(fields), 2) if not fields[i].startswith(b":")), len(fields))
    counts: dict[bytes, tuple[int | None, int | None]] = {}
    for record in fields[split:]:
        added, removed, name = record.split(b"\t", 2)
        counts[name] = (None, None) if added == b"-" else (int(added), int(removed))
    for head, name in zip(fields[0:split:2], fields[1:split:2], strict=True):
        old_mode, new_mode, _, _, status = head[1:].decode("ascii").split(" ")
        added_lines, removed_lines = counts.get(name, (0, 0))
        path, utf8 = _shown(name)
        yield (
            name,
            FileChange(
                path=path,
                utf8=utf8,
                status=cast('Literal["A", "M", "D", "T"]', status[0]),
                old_mode=old_mode,
                new_mode=new_mode,
                added=added_lines,
                removed=removed_lines,
            ),
        )


def _shown(name: bytes) -> tuple[str, bool]:
    try:
        return name.decode("utf-8"), True
    except UnicodeDecodeError:
        return name.decode("utf-8", "backslashreplace"), False
