"""The ports of the agent, each the size of its use. Adapters live in `worker.adapters`; fakes in `tests`.

What an adapter may raise: `worker.errors.Transient` or `Permanent` (ours failed; the loop lets them through). The
model is shown what a session can't do because of what was asked or done there: the builtin OSErrors named at `read` and
`write`, and `agent.errors.NotSaved` of `snapshot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import Protocol, runtime_checkable

from pydantic import Field

from agent.generated import GeneratedIds
from agent.outcome import Patch
from agent.types import AssistantMessage, Completion, Frozen, Input, Sampling, Step, ToolSpec, Usage


class Conversation(Protocol):
    """One append-only exchange with a model. History is tokens and may hold KV memory: always `close()`."""

    @property
    def tokens(self) -> int:
        """Tokens the next call's prompt will hold (system, tools and all messages so far)."""

    def add(self, messages: Sequence[Input]) -> None:
        """Append messages; each tool call of the last answer gets exactly one ToolMessage before the next call."""

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:
        """Append an answer that was generated before, in another conversation that began and went like this one, as
        `complete` would have: nothing is generated. It is no answer of this model's that counts or costs. `generated`:
        its ids, which a history of the same vocabulary takes as they are."""

    def complete(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        """Generate the next answer and append it to the history.

        `deadline` is a time.monotonic() value: past it, or once `cancel` is set, the call is aborted and comes back
        with finish_reason "abort" and whatever usage is known. Raises `agent.errors.LimitsExceeded` when the history
        leaves no room for an answer in the model's window.
        """

    def close(self) -> None: ...


@runtime_checkable
class CallsForced(Protocol):
    """What a conversation can do besides where its model's answers can be held to a form."""

    def complete_call(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        """As `complete`, but the answer is one call of one of the tools it was opened with, of which there has to be
        one, with arguments of that tool's schema."""


@runtime_checkable
class AsksBeside(Protocol):
    """A model whose engine trajectories live on, too."""

    def beside(self, system: str, tools: Sequence[ToolSpec]) -> Conversation:
        """As `Model.open`, for a question that takes the gaps which trajectories leave, and pushes none of them out."""


def is_approximate(tokenizer: str) -> bool:
    """Whether a `Model.tokenizer` says that it is not the model's own vocabulary."""
    return tokenizer.endswith("(approximate)")


class Model(Protocol):
    @property
    def label(self) -> str:
        """What people are told ran, e.g. `openai:devstral@127.0.0.1:1234`, or that no language model ran."""

    @property
    def tokenizer(self) -> str:
        """What counted the tokens; ends in `(approximate)` when it is not the model's own vocabulary."""

    @property
    def identity(self) -> str:
        """Equal for models that may go on with each other's conversations, wherever they run."""

    @property
    def alive(self) -> bool:
        """False once no call in this process can succeed any more: its engine died. A server is always alive here,
        since each call answers for itself."""

    @property
    def window(self) -> int | None:
        """Tokens that a call's prompt and answer may have together, where that is known. A server may be asked: what
        `complete` raises of one that is down, this does, too."""

    def open(self, system: str, tools: Sequence[ToolSpec]) -> Conversation: ...


class ExecStatus(StrEnum):
    """How a command ended. `exit` is its own end, with a return code; every other one was ours."""

    EXIT = "exit"
    TIMEOUT = "timeout"
    OOM = "oom"
    PIDS = "pids"
    OUTPUT_LIMIT = "output_limit"
    DISK = "disk"
    CANCELLED = "cancelled"


class Captured(Frozen):
    """A stream's head and tail. `text` is head + a line naming the elided bytes + tail; undecodable bytes and
    control characters other than tab and newline are replaced."""

    text: str = ""
    total_bytes: int = 0
    elided_bytes: int = 0


class ExecResult(Frozen):
    status: ExecStatus
    returncode: int | None
    stdout: Captured
    stderr: Captured
    seconds: float


class SandboxLimits(Frozen):
    memory_bytes: int = Field(default=2 << 30, gt=0)
    processes: int = Field(default=512, gt=0)
    file_bytes: int = Field(default=1 << 30, gt=0, description="largest single file")
    disk_bytes: int = Field(default=4 << 30, gt=0, description="the workspace, where the backend can enforce it")
    tmp_bytes: int = Field(default=256 << 20, gt=0)
    cpus: float = Field(default=2.0, gt=0)


class Isolation(StrEnum):
    """`strict`: user namespaces + seccomp + cgroups. `basic`: user namespaces + seccomp + rlimits + sized tmpfs."""

    STRICT = "strict"
    BASIC = "basic"


class Mount(Frozen):
    """The host's directory `source`, shown inside at `target`. A writable one is given to the sandbox's own uid."""

    source: Path
    target: str = Field(pattern=r"^/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")
    writable: bool = False


class SandboxSpec(Frozen):
    """A workspace at `tree` (a tree or commit id) of the trusted bare repository `git_dir`.

    `git_dir` is never mounted writable; its objects (and those of its alternates) may be visible read-only.
    `mounts`, `env` and `path` (folders to look for programs in first) are there for what `exec` runs; the session's
    own scripts see none of them.
    """

    git_dir: Path
    tree: str
    limits: SandboxLimits = SandboxLimits()
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = {}
    path: tuple[str, ...] = ()


class Session(Protocol):
    """One sandbox around one workspace, for one run. Paths are relative to the workspace, or absolute inside it."""

    def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        timeout: float,
        max_output: int = 1 << 20,
        cancel: Event | None = None,
    ) -> ExecResult:
        """Run `argv` with no stdin. On every end nothing it started is left alive. `max_output` is bytes per stream
        that are kept; a command that writes more than four times as much is killed (`output_limit`)."""

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """At most `max_bytes` of a regular file. Raises FileNotFoundError, IsADirectoryError, PermissionError."""

    def write(self, path: str, data: bytes) -> None:
        """Replace a file's content, making parent directories. Raises IsADirectoryError, PermissionError, OSError."""

    def snapshot(self) -> str:
        """The id of a git tree of the workspace's present content, its objects imported into `git_dir`. Untrusted
        content, trusted id: the objects were checked on import. Raises `agent.errors.NotSaved` when the content is
        too large or too much to be read; the session goes on, and so does a later snapshot of less."""

    def reset(self, tree: str) -> None:
        """Make the workspace's content equal `tree` again."""

    def close(self) -> None: ...


class Sandbox(Protocol):
    @property
    def isolation(self) -> Isolation: ...

    @property
    def capabilities(self) -> frozenset[str]:
        """Of: `no_net`, `seccomp`, `cgroup`, `cow`, `disk_quota`, `uid_drop`, `kernel_isolated`."""

    def open(self, spec: SandboxSpec) -> Session: ...


class Changes(Protocol):
    """What a trajectory has changed, as the service sees it."""

    def patch(self, tree: str) -> Patch:
        """From the base commit to `tree`."""

    def objections(self, patch: Patch) -> Sequence[str]:
        """Why `patch` would be refused, for the model; nothing where it would not."""


class Journal(Protocol):
    """Where a trajectory is written as it happens. Called in this order per step: `reserve`, `spend`, then `step`.

    A journal that may no longer write (its lease was taken over) raises, and the loop ends there.
    """

    def checkpoint(self) -> None:
        """Called before each model call and each command. Raises `agent.errors.Cancelled` or a lost lease's error."""

    def reserve(self, call: int, prompt_tokens: int, max_tokens: int) -> AbstractContextManager[None]:
        """Around a model call: sets aside what it can cost at worst, and frees that again when the call raises.
        `spend` settles it. Entering raises `agent.errors.LimitsExceeded` where a budget has no room for it."""

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        """Book one model call, before its answer is parsed: a failed parse is billed all the same."""

    def step(self, step: Step) -> None: ...
