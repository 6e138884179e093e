"""A recording's workspace and ours: its paths are mapped to the sandbox's, and its files read and written there."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from agent.protocols import ExecResult, Session
from agent.tools.bash import QUIET
from agent.tools.text import WORKSPACE

SECONDS = 300.0  # of one command
_MERGED = 'exec 2>&1; exec bash -c "$1"'  # both streams in the order in which they were written


class NoSuchFile(Exception):
    """A recorded path is no file here; the message is the path as recorded."""


@dataclass(frozen=True)
class Files:
    """`root` is where the recording's workspace was."""

    session: Session
    root: str

    def ours(self, text: str) -> str:
        """Recorded text (a path, a command) with our workspace in place of its own."""
        return text if self.root == WORKSPACE else text.replace(self.root, WORKSPACE)

    def theirs(self, text: str) -> str:
        return text if self.root == WORKSPACE else text.replace(WORKSPACE, self.root)

    def path(self, recorded: str, cwd: str | None = None) -> str:
        """A recorded path, relative to the workspace."""
        absolute = posixpath.normpath(posixpath.join(WORKSPACE, self.ours(cwd or ""), self.ours(recorded)))
        return posixpath.relpath(absolute, WORKSPACE)

    def read(self, path: str) -> str:
        try:
            return self.session.read(path, max_bytes=16 << 20).decode("utf-8", "surrogateescape")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NoSuchFile(path) from error

    def write(self, path: str, text: str) -> None:
        self.session.write(path, text.encode("utf-8", "surrogateescape"))

    def shell(self, command: str, cwd: str | None = None, seconds: float = SECONDS) -> ExecResult:
        """Run a recorded command line as a new shell, its output and its errors in one stream."""
        return self.session.exec(
            ["bash", "-c", _MERGED, "bash", self.ours(command)],
            cwd=self.path(cwd or "."),
            env=QUIET,
            timeout=seconds,
            max_output=4 << 20,
        )

    def breaks_python(self, path: str, before: str, after: str) -> bool:
        """Whether an edit of a Python file makes one that does not parse of one that did. Asked inside the sandbox;
        the file is left as `after`."""
        if not path.endswith(".py"):
            self.write(path, after)
            return False
        self.write(path, before)
        had = not self._parses(path)
        self.write(path, after)
        return not had and not self._parses(path)

    def _parses(self, path: str) -> bool:
        code = "import ast, sys; ast.parse(open(sys.argv[1], 'rb').read())"
        done = self.session.exec(["python3", "-I", "-W", "ignore", "-c", code, path], timeout=60.0)
        return done.returncode == 0
