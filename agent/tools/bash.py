"""`bash`: one command line in a fresh shell; a failure is told with its return code and both streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agent.errors import CommandTimedOut, ToolFailure
from agent.protocols import Captured, ExecResult, ExecStatus, Session
from agent.tools.base import Parameters, fields
from agent.tools.text import elide

# Programs that page, animate, colour or ask would waste the model's window or wait for a person.
QUIET = {
    "CI": "true",
    "DEBIAN_FRONTEND": "noninteractive",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "LESS": "-R",
    "MANPAGER": "cat",
    "NO_COLOR": "1",
    "PAGER": "cat",
    "PIP_PROGRESS_BAR": "off",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TERM": "dumb",
    "TQDM_DISABLE": "1",
}

_ENDS = {
    ExecStatus.TIMEOUT: "it was stopped after {seconds:.0f} s without ending; run less of it, or give a longer timeout "
    "if one is allowed",
    ExecStatus.OOM: "it was killed because it used too much memory; run less at once",
    ExecStatus.PIDS: "it was killed because it started too many processes",
    ExecStatus.OUTPUT_LIMIT: "it was killed because it printed too much; send the output to a file and read the part "
    "you need",
    ExecStatus.DISK: "it was killed because it wrote too much to disk",
    ExecStatus.CANCELLED: "it was stopped because the run was cancelled",
}


class BashParameters(Parameters):
    command: str = Field(min_length=1, description="the command line, as given to bash -c")
    timeout: int | None = Field(
        default=None, ge=1, description="seconds after which the command is stopped; the service's limit stays in force"
    )


@dataclass(frozen=True)
class Bash:
    """`bash -c`, not a login shell: profile files may reset the PATH that the sandbox set up."""

    command_seconds: float = 300.0
    max_bytes: int = 16_000

    name: ClassVar[str] = "bash"
    description: ClassVar[str] = (
        "Run a command line in the workspace, to run tests and programs, list directories and look at git's history. "
        "Every call is a new shell that starts in the workspace: cd, exported variables, background processes and "
        "files outside the workspace (/tmp too) do not last, so join what belongs together with &&. There is no "
        "terminal, no input and no network. Of long output the middle is left out. To read, search or edit files use "
        "read_file, grep, search_replace and write_file instead."
    )
    parameters: ClassVar[type[Parameters]] = BashParameters
    mutates: ClassVar[bool] = True

    def run(self, session: Session, params: BashParameters) -> str:
        timeout = min(float(params.timeout or self.command_seconds), self.command_seconds)
        if "\0" in params.command:
            raise ToolFailure("the command holds a NUL character")
        # Far more than is shown: a stream that writes four times as much is killed, and a chatty test run is normal.
        result = session.exec(["bash", "-c", params.command], env=QUIET, timeout=timeout, max_output=4 << 20)
        stdout, stderr = self._streams(result)
        if result.status is ExecStatus.EXIT and result.returncode == 0:
            return fields(stdout=stdout, stderr=stderr, returncode=0)
        kind = CommandTimedOut if result.status is ExecStatus.TIMEOUT else ToolFailure
        raise kind(_failure(params.command, result, stdout, stderr))

    def _streams(self, result: ExecResult) -> tuple[str, str]:
        """Both streams within `max_bytes` together: each may use what the other leaves of it."""
        out, err = (len(stream.text.encode(errors="replace")) for stream in (result.stdout, result.stderr))
        half = self.max_bytes // 2
        return (
            _cut(result.stdout, max(half, self.max_bytes - err)),
            _cut(result.stderr, max(half, self.max_bytes - out)),
        )


def _cut(stream: Captured, limit: int) -> str:
    return elide(stream.text, limit, already=stream.elided_bytes)


def _failure(command: str, result: ExecResult, stdout: str, stderr: str) -> str:
    lines = [f"Command failed: {elide(command, 400)!r}"]
    if result.status is not ExecStatus.EXIT:
        lines.append(f"Reason: {_ENDS[result.status].format(seconds=result.seconds)}")
    else:
        lines.append(f"Return code: {result.returncode}")
    if stderr:
        lines.append(f"Stderr: {stderr}")
    if stdout:
        lines.append(f"Stdout: {stdout}")
    return "\n".join(lines)
