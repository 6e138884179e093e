"""Which patches may leave the house: rules over a patch's file list and its diff, whatever the model was told."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pydantic import Field

from agent import credentials
from agent.outcome import FileChange, Patch
from agent.types import Frozen

_SYMLINK, _GITLINK = "120000", "160000"
_ESCAPES = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


class HygienePolicy(Frozen):
    """What a repository's owner may loosen or tighten; everything else is refused always."""

    allow_workflows: bool = False
    allow_binaries: bool = False
    max_file_diff_bytes: int = Field(default=1 << 20, gt=0)
    max_files: int = Field(default=100, gt=0)
    max_lines: int = Field(default=10_000, gt=0, description="added and removed together")
    protected: tuple[str, ...] = Field(default=(), description="globs of paths that must not be touched")


class Violation(Frozen):
    path: str
    rule: str
    reason: str


def check(
    patch: Patch, policy: HygienePolicy | None = None, *, existing: Collection[str] = ()
) -> tuple[Violation, ...]:
    """Everything that forbids `patch`, in the order of its files; empty for a clean one.

    `existing` are the base's paths, for names that some file systems take for one and the same.
    """
    policy = policy or HygienePolicy()
    sections = sections_by_path(patch.diff)
    found = [
        Violation(path=change.path, rule=rule, reason=reason)
        for change in patch.files
        for rule, reason in (
            *_path_problems(change, policy),
            *_mode_problems(change, sections.get(change.path, "")),
            *_size_problems(change, sections.get(change.path, ""), policy),
            *(("secret", f"it adds a {what}") for what in credentials.added(sections.get(change.path, ""))),
        )
    ]
    found += _limits(patch, policy)
    found += _collisions(patch, existing)
    listed = {change.path for change in patch.files}
    found += [
        Violation(path=path, rule="unlisted", reason="the diff changes a file that the file list doesn't name")
        for path in sections
        if path not in listed
    ]
    return tuple(found)


def printable(path: str) -> str:
    """`path` with escapes for what a terminal or a page might act on."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in path)


def is_test_path(path: str) -> bool:
    """Whether a path looks like a test by the habits of the common languages."""
    parts = PurePosixPath(path).parts
    directories = {part.casefold() for part in parts[:-1]}
    if directories & {
        "test",
        "tests",
        "__tests__",
        "spec",
        "specs",
        "testing",
        "testdata",
        "test_data",
        "e2e",
        "__snapshots__",
        "__mocks__",
    }:
        return True
    return is_test_file(path)


def is_test_file(path: str) -> bool:
    """Whether its own name says so, wherever it lies."""
    return bool(_TEST_NAME.search(path.rsplit("/", 1)[-1]))


_TEST_NAME = re.compile(
    r"""
      ^(test_.*|.*_test|tests|conftest)\.py$
    | _test\.(go|rs|dart|exs?|cc|cpp|c)$
    | [._-](test|spec)\.[cm]?[jt]sx?$
    | _(spec|test)\.rb$
    | (Test|Tests|IT|Spec)\.(java|kt|kts|scala|groovy|cs|php|swift)$
    """,
    re.VERBOSE,
)


def sections_by_path(diff: str) -> dict[str, str]:
    """The diff's part for each path; a change of type is two parts of one path, joined.

    Lines end at line feeds only: splitting at other line breaks would let a file's content forge a header.
    """
    sections: dict[str, str] = {}
    lines: list[str] = []
    for line in [*diff.split("\n"), "diff --git "]:
        if line.startswith("diff --git "):
            if lines:
                path = _section_path(lines)
                sections[path] = sections.get(path, "") + "\n".join(lines) + "\n"
            lines = [line]
        elif lines:
            lines.append(line)
    return sections


def _path_problems(change: FileChange, policy: HygienePolicy) -> Iterator[tuple[str, str]]:
    path = change.path
    parts = path.split("/")
    if not path or path.startswith("/") or {"", ".", ".."} & set(parts):
        yield "path", "it is not a plain path inside the repository"
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in path):
        yield "path", "its name holds control or invisible characters"
    if not change.utf8:
        yield "path", "its name is not UTF-8"
    if any(_is_git_directory(part) for part in parts):
        yield "git-internals", "it lies in git's own directory"
    if parts[-1].casefold() == ".gitmodules":
        yield "submodule", "submodule definitions must not change"
    if [part.casefold() for part in parts[:2]] == [".github", "workflows"] and not policy.allow_workflows:
        yield "workflow", "workflows run with the repository's secrets; changing them is not allowed here"
    if any(fnmatchcase(path, glob) for glob in policy.protected):
        yield "protected", "the repository's settings protect this path"


def _collisions(patch: Patch, existing: Collection[str]) -> Iterator[Violation]:
    """Added paths that a file system which folds case, or composes characters, takes for another path's."""
    gone = {change.path for change in patch.files if change.status == "D"}
    taken = {_folded(path): path for path in existing if path not in gone}
    for change in patch.files:
        if change.status == "A":
            other = taken.setdefault(_folded(change.path), change.path)
            if other != change.path:
                reason = f"some file systems can't tell its name from {printable(other)}"
                yield Violation(path=change.path, rule="collision", reason=reason)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _mode_problems(change: FileChange, section: str) -> Iterator[tuple[str, str]]:
    if _GITLINK in {change.old_mode, change.new_mode}:
        yield "submodule", "it is a submodule (gitlink)"
    if change.new_mode == _SYMLINK:
        target = _symlink_target(section)
        if target is None:
            yield "symlink", "it is a symlink whose target can't be read from the diff"
        elif target.startswith("/") or "\0" in target:
            yield "symlink", f"it is a symlink to an absolute path ({target[:100]})"
        else:
            reached = posixpath.normpath(posixpath.join(posixpath.dirname(change.path), target))
            if reached == ".." or reached.startswith("../"):
                yield "symlink", f"it is a symlink that leaves the repository ({target[:100]})"
            elif any(_is_git_directory(part) for part in reached.split("/")):
                yield "symlink", "it is a symlink into git's own directory"
    elif change.new_mode not in {"100644", "100755", "000000", _GITLINK}:
        yield "mode", f"its mode {change.new_mode} is not one of a file"


def _size_problems(change: FileChange, section: str, policy: HygienePolicy) -> Iterator[tuple[str, str]]:
    if len(section.encode(errors="replace")) > policy.max_file_diff_bytes:
        yield "size", f"its diff is larger than {policy.max_file_diff_bytes} bytes"
    binary = (change.added is None or change.removed is None) and _GITLINK not in {change.old_mode, change.new_mode}
    if binary and change.status != "D" and not policy.allow_binaries:
        yield "binary", "binary files are not allowed"


def _limits(patch: Patch, policy: HygienePolicy) -> Iterator[Violation]:
    lines = sum((change.added or 0) + (change.removed or 0) for change in patch.files)
    for count, most, what in ((len(patch.files), policy.max_files, "files"), (lines, policy.max_lines, "lines")):
        if count > most:
            reason = f"it changes {count} {what}; here it may be {most}"
            yield Violation(path="(the whole change)", rule="limits", reason=reason)


def _is_git_directory(part: str) -> bool:
    """Whether some file system takes `part` for `.git`: case, trailing dots and blanks, short names, streams, and
    characters that are ignored in names."""
    plain = "".join(char for char in part if unicodedata.category(char) != "Cf").casefold()
    plain = plain.split(":")[0].rstrip(". ")
    return plain == ".git" or bool(re.fullmatch(r"git~\d+", plain))


def _symlink_target(section: str) -> str | None:
    """The content of the one-line file that a symlink is to git."""
    added, symlink, in_hunk = [], False, False
    for line in section.split("\n"):
        if line.startswith("diff --git "):
            in_hunk = symlink = False
        elif not in_hunk and re.match(r"(new file mode|new mode) 120000$|index \S+ 120000$", line):
            symlink = True
        elif line.startswith("@@ "):
            in_hunk = True
        elif in_hunk and symlink and line.startswith("+"):
            added.append(line[1:])
    return added[0] if len(added) == 1 and added[0] else None


def _section_path(lines: list[str]) -> str:
    """The path a section is about: from its `+++` line, its `---` line, or else from its first line, where both
    halves are the same path."""
    old = None
    for line in lines[1:]:
        if line.startswith("@@ "):
            break
        if line.startswith("+++ ") and (path := _side(line[4:])):
            return path
        if line.startswith("--- "):
            old = _side(line[4:])
    if old:
        return old
    both = lines[0].removeprefix("diff --git ")
    if both.startswith('"'):
        return _side(both[: (len(both) - 1) // 2]) or both
    return both[: (len(both) - 1) // 2].removeprefix("a/")


def _side(text: str) -> str | None:
    """`a/path`, `b/path`, `"b/quoted path"` or `/dev/null`. git ends names with blanks by a tab."""
    text = text.removesuffix("\t")
    if text == "/dev/null":
        return None
    if text.startswith('"') and text.endswith('"'):
        text = _unquote(text[1:-1])
    return text[2:] if text[:2] in {"a/", "b/"} else text


def _unquote(text: str) -> str:
    """Git's C-style quoting; octal escapes are bytes, shown as FileChange.path shows them where they aren't UTF-8."""
    out = bytearray()
    for match in re.finditer(r"\\([0-7]{3})|\\(.)|([^\\]+)", text, re.DOTALL):
        octal, escape, plain = match.groups()
        if octal:
            out.append(int(octal, 8) & 0xFF)
        else:
            out += (plain or _ESCAPES.get(escape, escape)).encode(errors="surrogateescape")
    return out.decode(errors="backslashreplace")
