"""The double's bare repositories: made with one commit whose id depends on nothing but the files, and read back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

# Fixed, so that a repository's first commit id is the same in every run.
_WHO = "Demo <demo@example.invalid> 1767225600 +0000"


def environment() -> dict[str, str]:
    """What git may see here: nobody's configuration, and no question asked on a terminal."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def _git(git_dir: Path, *arguments: str, stdin: bytes = b"", check: bool = True) -> bytes | None:
    done = subprocess.run(
        ["git", f"--git-dir={git_dir}", *arguments],
        input=stdin,
        env=environment(),
        capture_output=True,
        check=False,
    )
    if done.returncode and check:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return None if done.returncode else done.stdout


class BareRepositories:
    """`<root>/<owner>/<name>.git`; names are compared as GitHub does, without regard to case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, full_name: str) -> Path:
        owner, _, name = full_name.lower().partition("/")
        if not owner or not name or "/" in name or {owner, name} & {".", ".."}:
            raise ValueError(f"not owner/name: {full_name!r}")
        return self.root / owner / f"{name}.git"

    def names(self) -> list[str]:
        """`owner/name` of all, in lower case."""
        return sorted(f"{found.parent.name}/{found.stem}" for found in self.root.glob("*/*.git"))

    def exists(self, full_name: str) -> bool:
        try:
            return self.path(full_name).is_dir()
        except ValueError:
            return False

    def create(self, full_name: str, files: Mapping[str, str | bytes], default_branch: str) -> str:
        """The id of the one commit. An executable file is one whose content starts with `#!`."""
        where = self.path(full_name)
        where.parent.mkdir(parents=True, exist_ok=True)
        _git(where, "init", "--quiet", "--bare", f"--initial-branch={default_branch}")
        for key, value in (("http.receivepack", "true"), ("uploadpack.allowFilter", "true"), ("gc.auto", "0")):
            _git(where, "config", key, value)
        return self._import(full_name, files, default_branch, "Initial commit", parent=None)

    def commit(self, full_name: str, files: Mapping[str, str | bytes], branch: str, message: str = "Change") -> str:
        """Somebody's commit on a branch that is there: `files` anew, the others as they are. Its id."""
        parent = self.branch(full_name, branch)
        if parent is None:
            raise ValueError(f"there is no branch {branch!r}")
        return self._import(full_name, files, branch, message, parent=parent)

    def _import(
        self, full_name: str, files: Mapping[str, str | bytes], branch: str, message: str, *, parent: str | None
    ) -> str:
        # fast-import: one process for any number of files, and no index or work tree
        said = message.encode()
        head = f"commit refs/heads/{branch}\nauthor {_WHO}\ncommitter {_WHO}\ndata {len(said)}\n".encode()
        parts = [head, said, b"\n", b"" if parent is None else f"from {parent}\n".encode()]
        for path, content in sorted(files.items()):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"not a path inside the repository: {path!r}")
            data = content.encode() if isinstance(content, str) else content
            mode = "100755" if data.startswith(b"#!") else "100644"
            parts.append(f"M {mode} inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
        _git(self.path(full_name), "fast-import", "--quiet", stdin=b"".join(parts) + b"\n")
        commit = self.branch(full_name, branch)
        assert commit is not None
        return commit

    def branch(self, full_name: str, branch: str) -> str | None:
        """The commit id a branch is at; None when there is no such branch."""
        found = _git(self.path(full_name), "rev-parse", "--quiet", "--verify", f"refs/heads/{branch}", check=False)
        return None if found is None else found.decode().strip()

    def has_commit(self, full_name: str, commit: str) -> bool:
        return _git(self.path(full_name), "cat-file", "-e", f"{commit}^{{commit}}", check=False) is not None

    def tree(self, full_name: str, branch: str) -> str | None:
        """The tree id of a branch's newest commit."""
        found = _git(self.path(full_name), "rev-parse", "--quiet", "--verify", f"{branch}^{{tree}}", check=False)
        return None if found is None else found.decode().strip()

    def branches(self, full_name: str) -> dict[str, str]:
        listed = _git(self.path(full_name), "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
        pairs = (line.rpartition(" ") for line in (listed or b"").decode().splitlines())
        return {name: commit for name, _, commit in pairs}

    def ahead(self, full_name: str, base: str, head: str) -> int:
        """How many commits of branch `head` are not in branch `base`."""
        counted = _git(self.path(full_name), "rev-list", "--count", f"refs/heads/{base}..refs/heads/{head}")
        return int(counted or b"0")

    def diff(self, full_name: str, base: str, head: str) -> str:
        """What `head` changed since it left `base`, both branches or commit ids."""
        text = _git(self.path(full_name), "diff", "--no-color", f"{base}...{head}")
        return (text or b"").decode(errors="replace")

    def read_file(self, full_name: str, revision: str, path: str) -> bytes | None:
        return _git(self.path(full_name), "cat-file", "blob", f"{revision}:{path}", check=False)
