"""`grep`: a regular expression over the workspace's files, answered as file:line:text in a stable order.

GNU grep alone, also where ripgrep is there: one regular-expression dialect and one result on every machine, so that
a recorded trajectory can be replayed byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agent.errors import CommandTimedOut, ToolFailure
from agent.protocols import ExecResult, ExecStatus, Session
from agent.tools.base import Parameters, fields
from agent.tools.text import inside, shown

# Only names that are never somebody's source code: `build` and `dist` are packages in some repositories.
IGNORED = (
    ".git",
    ".hg",
    ".idea",
    ".mypy_cache",
    ".nox",
    ".pytest_cache",
    ".ruff_cache",
    ".svn",
    ".tox",
    ".venv",
    "__pycache__",
    "node_modules",
    "venv",
)
_SECONDS = 60.0
_LINE = 500  # characters shown of one line; minified files have lines of a megabyte
_MATCH = re.compile(r"^(?P<file>.*?):(?P<line>\d+):(?P<text>.*)$")


class GrepParameters(Parameters):
    pattern: str = Field(min_length=1, description="a Perl-compatible regular expression; ignores case if all lower")
    path: str = Field(default=".", description="the file or directory to search")
    max_matches: int | None = Field(default=None, ge=1, description="how many lines to show; 100 if left out")
    use_default_ignore: bool = Field(
        default=True, description="leave out version control, caches, virtual environments and node_modules"
    )


@dataclass(frozen=True)
class Grep:
    max_bytes: int = 64_000
    max_matches: int = 100

    name: ClassVar[str] = "grep"
    description: ClassVar[str] = (
        "Search the contents of files with a regular expression, recursively. Each match is one line, "
        "file:line:text. Binary files are skipped. Use this and not grep or find in bash to look for code."
    )
    parameters: ClassVar[type[Parameters]] = GrepParameters
    mutates: ClassVar[bool] = False

    def run(self, session: Session, params: GrepParameters) -> str:
        path = inside(params.path)
        if "\0" in params.pattern or "\n" in params.pattern:
            raise ToolFailure("the pattern must be one line; search for one of its lines")
        wanted = params.max_matches or self.max_matches
        result = self._grep(session, params, path, wanted, "-P")
        if result.returncode == 2 and "-P" in result.stderr.text:  # a grep built without it says so
            result = self._grep(session, params, path, wanted, "-E")
        found = sorted(
            (match["file"].removeprefix("./"), int(match["line"]), match["text"])
            for line in result.stdout.text.split("\n")
            if (match := _MATCH.match(line))
        )
        if not found:
            _explain(result, params)
        matches = self._fitting([f"{file}:{line}:{_short(text)}" for file, line, text in found[:wanted]])
        cut = len(found) > len(matches) or result.status is not ExecStatus.EXIT or result.stdout.elided_bytes > 0
        return fields(matches="\n".join(matches), match_count=len(matches), was_truncated=cut)

    def _grep(self, session: Session, params: GrepParameters, path: str, wanted: int, dialect: str) -> ExecResult:
        argv = ["grep", "-r", "-n", "-H", "-I", "-D", "skip", "--color=never", dialect, f"--max-count={wanted + 1}"]
        if params.use_default_ignore:
            argv += [f"--exclude-dir={name}" for name in IGNORED]
        if not any(letter.isupper() for letter in re.sub(r"\\.", "", params.pattern)):
            argv.append("-i")
        argv += ["-e", params.pattern, "--", path]
        return session.exec(argv, env={"LC_ALL": "C.UTF-8"}, timeout=_SECONDS, max_output=4 << 20)

    def _fitting(self, lines: list[str]) -> list[str]:
        room = self.max_bytes
        for index, line in enumerate(lines):
            room -= len(line.encode(errors="replace")) + 1
            if room < 0:
                return lines[:index]
        return lines


def _short(text: str) -> str:
    return text if len(text) <= _LINE else f"{text[:_LINE]} [... {len(text) - _LINE} more characters]"


def _explain(result: ExecResult, params: GrepParameters) -> None:
    """Raises unless finding nothing is the plain answer (grep's exit 1)."""
    if result.status is ExecStatus.TIMEOUT:
        raise CommandTimedOut(f"the search took longer than {result.seconds:.0f} s; search a smaller path")
    if result.status is not ExecStatus.EXIT:
        raise ToolFailure(f"the search was stopped ({result.status}); search a smaller path")
    if result.returncode == 1:
        return
    said = result.stderr.text.strip() or f"grep ended with {result.returncode}"
    if "No such file" in said:
        raise ToolFailure(f"{shown(inside(params.path))} does not exist; search in . to find it")
    raise ToolFailure(f"pattern {params.pattern!r} can't be searched: {said}; escape characters like ( [ {{ with \\")
