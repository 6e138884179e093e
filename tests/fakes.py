"""Real small classes behind the agent's ports, for tests: scripted model, session on a directory, journal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from threading import Event, Thread

from agent.errors import NotSaved
from agent.generated import GeneratedIds
from agent.outcome import FileChange, Patch
from agent.protocols import Captured, ExecResult, ExecStatus, Session
from agent.tokens import TokenCounter
from agent.types import (
    AssistantMessage,
    Completion,
    Input,
    Sampling,
    Step,
    ToolCall,
    ToolMessage,
    ToolSpec,
    Usage,
)
from worker.errors import SandboxUnavailable

WORKSPACE = "/workspace"


def say(text: str, **changes: object) -> Completion:
    """An answer without a tool call."""
    return _completion(AssistantMessage(content=text), "stop", changes)


def call(*calls: tuple[str, str], **changes: object) -> Completion:
    """An answer with tool calls, each a name and its arguments as JSON text."""
    made = tuple(ToolCall(id=f"call{i:05d}", name=name, arguments=args) for i, (name, args) in enumerate(calls))
    return _completion(AssistantMessage(tool_calls=made), "tool_calls", changes)


def _completion(message: AssistantMessage, finish: str, changes: dict[str, object]) -> Completion:
    values = {"usage": Usage(prompt=100, cached=40, completion=10), "finish_reason": finish, "seconds": 0.5} | changes
    return Completion.model_validate({"message": message, **values})


class FakeConversation:
    """Plays completions in order and holds the caller to the port's rules."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self._open_calls: list[str] = []
        self.messages: list[Input | AssistantMessage] = []
        self.restored: list[GeneratedIds | None] = []
        self.closed = False
        self.said = 0
        self._history = model.counter and model.counter.open(model.system, model.tools)

    @property
    def tokens(self) -> int:
        if self._history is not None:
            return len(self._history)
        return self._model.first_tokens + self._model.tokens_per_message * self.said

    def add(self, messages: Sequence[Input]) -> None:
        assert not self.closed
        assert messages, "nothing to add"
        for message in messages:
            if isinstance(message, ToolMessage):
                self._open_calls.remove(message.tool_call_id)
        self._tell(*messages)
        self.said += len(messages)

    def _tell(self, *messages: Input | AssistantMessage) -> None:
        self.messages.extend(messages)
        for message in messages:
            if self._history is not None:
                self._history.add(message)

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:
        assert not self.closed
        assert not self._open_calls, "a tool call has no result"
        assert not isinstance(self.messages[-1], AssistantMessage), "two answers in a row"
        self._tell(answer)
        self.restored.append(generated)
        self._open_calls = [made.id for made in answer.tool_calls]

    def complete(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        assert not self.closed
        assert not isinstance(self.messages[-1], AssistantMessage), "nothing was said since the last answer"
        assert not self._open_calls, "a tool call has no result"
        self._model.samplings.append(sampling)
        self._model.prompts.append(self.tokens)
        answer = self._model.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(deadline, cancel)
        if answer.finish_reason != "abort":
            self._tell(answer.message)
            self._open_calls = [made.id for made in answer.message.tool_calls]
        return answer

    def close(self) -> None:
        assert not self.closed
        self.closed = True


Answer = Completion | Exception | Callable[[float, Event], Completion]


class FakeModel:
    """`answers`: completions, errors to raise, or functions of (deadline, cancel) for calls that wait. `counter`: count
    tokens with it instead of so many per message."""

    label = "fake (no language model ran)"
    identity = "fake"
    alive = True
    window: int | None = None

    def __init__(
        self,
        *answers: Answer,
        first_tokens: int = 100,
        tokens_per_message: int = 10,
        counter: TokenCounter | None = None,
    ) -> None:
        self.answers = list(answers)
        self.counter = counter
        self.tokenizer = "fake (approximate)" if counter is None else "fake"
        self.first_tokens = first_tokens
        self.tokens_per_message = tokens_per_message
        self.samplings: list[Sampling] = []
        self.prompts: list[int] = []  # tokens of each call's
        self.conversation: FakeConversation | None = None
        self.conversations: list[FakeConversation] = []

    def open(self, system: str, tools: Sequence[ToolSpec]) -> FakeConversation:
        self.system = system
        self.tools = tuple(tools)
        self.conversation = FakeConversation(self)
        self.conversations.append(self.conversation)
        return self.conversation


class FakeJournal:
    """Keeps what it is told; raises `ends[n]` at the n-th checkpoint (from 0), `refuses` at the named write."""

    def __init__(
        self, ends: Mapping[int, Exception] | None = None, refuses: dict[str, Exception] | None = None
    ) -> None:
        self._ends = dict(ends or {})
        self._refuses = refuses or {}
        self.checkpoints = 0
        self.reserved: dict[int, tuple[int, int]] = {}
        self.spends: list[tuple[int, Usage, float, float]] = []
        self.steps: list[Step] = []
        self.order: list[str] = []

    def checkpoint(self) -> None:
        self.order.append("checkpoint")
        self.checkpoints += 1
        if self.checkpoints - 1 in self._ends:
            raise self._ends[self.checkpoints - 1]

    @contextmanager
    def reserve(self, call: int, prompt_tokens: int, max_tokens: int) -> Iterator[None]:
        if "reserve" in self._refuses:
            raise self._refuses["reserve"]
        self.reserved[call] = (prompt_tokens, max_tokens)
        try:
            yield
        except BaseException:
            del self.reserved[call]
            raise

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        assert call in self.reserved, "a call was made without a reservation"
        self.order.append("spend")
        if "spend" in self._refuses:
            raise self._refuses["spend"]
        self.spends.append((call, usage, usd, seconds))

    def step(self, step: Step) -> None:
        self.order.append("step")
        if "step" in self._refuses:
            raise self._refuses["step"]
        self.steps.append(step)


class FakeChanges:
    """Patches of a bare repository's trees, against `base`; `objects` is what is said against each."""

    def __init__(self, git_dir: Path, base: str, objects: Sequence[str] = ()) -> None:
        self._git_dir, self._base, self._objects = git_dir, base, objects

    def patch(self, tree: str) -> Patch:
        argv = ["git", f"--git-dir={self._git_dir}", "diff-tree", "-r", "--no-renames"]
        env = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
        raw, diff = (
            subprocess.run([*argv, form, self._base, tree], env=env, capture_output=True, text=True, check=True).stdout
            for form in ("--raw", "-p")
        )
        files = [line[1:].split("\t") for line in raw.splitlines()]
        changes = [(facts.split(), path) for facts, path in files]
        return Patch(
            base_commit=self._base,
            tree=tree,
            diff=diff,
            files=tuple(
                FileChange(path=path, status=facts[4], old_mode=facts[0], new_mode=facts[1]) for facts, path in changes
            ),
        )

    def objections(self, patch: Patch) -> Sequence[str]:
        return self._objects


class FakeSession:
    """A session on a plain directory, with real processes and real git trees, and no isolation at all: a command can
    reach the whole machine, `/workspace` in a command line is not the workspace, and only time and output are
    limited. Everything else keeps the port's contract."""

    def __init__(self, root: Path, git_dir: Path) -> None:
        self.root = root
        self.git_dir = git_dir
        self.dies = False  # from then on every call fails as a dead sandbox's would
        self.most_bytes = 64 << 20  # of files in a snapshot
        self.closed = False

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
        self._alive()
        started = time.monotonic()
        mark = f"FAKE_SESSION={uuid.uuid4().hex}"
        base = {"PATH": os.environ["PATH"], "HOME": str(self.root), "LANG": "C.UTF-8"}
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=self._path(cwd),
                env=base | dict(env or {}) | dict([mark.split("=")]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            text = f"{argv[0]}: {error.strerror}"
            return ExecResult(
                status=ExecStatus.EXIT,
                returncode=127 if isinstance(error, FileNotFoundError) else 126,
                stdout=Captured(),
                stderr=Captured(text=text, total_bytes=len(text)),
                seconds=0.0,
            )
        assert process.stdout
        assert process.stderr
        flooded, done = Event(), Event()
        streams = [_Stream(pipe, max_output, flooded) for pipe in (process.stdout, process.stderr)]
        waiter = Thread(target=lambda: (process.wait(), done.set()))
        waiter.start()
        status = self._wait(done, flooded, started + timeout, cancel)
        _kill(mark)
        waiter.join()
        out, err = (stream.captured() for stream in streams)
        return ExecResult(
            status=status,
            returncode=process.returncode if status is ExecStatus.EXIT else None,
            stdout=out,
            stderr=err,
            seconds=time.monotonic() - started,
        )

    def _wait(self, done: Event, flooded: Event, deadline: float, cancel: Event | None) -> ExecStatus:
        while not done.wait(0.01):
            if flooded.is_set():
                return ExecStatus.OUTPUT_LIMIT
            if cancel is not None and cancel.is_set():
                return ExecStatus.CANCELLED
            if time.monotonic() >= deadline:
                return ExecStatus.TIMEOUT
        return ExecStatus.OUTPUT_LIMIT if flooded.is_set() else ExecStatus.EXIT

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        self._alive()
        target = self._path(path)
        if target.exists() and not target.is_file() and not target.is_dir():
            raise PermissionError(13, "not a regular file", path)
        with target.open("rb") as file:
            return file.read(max_bytes)

    def write(self, path: str, data: bytes) -> None:
        self._alive()
        target = self._path(path)
        if target.is_dir():
            raise IsADirectoryError(21, "is a directory", path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def snapshot(self) -> str:
        self._alive()
        if sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file()) > self.most_bytes:
            raise NotSaved("they are larger than a snapshot may be", "The largest: one file.")
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": f"{scratch}/index"}
            exclude = self.git_dir / "info" / "exclude"  # what running tests leaves behind, as the real one does
            exclude.parent.mkdir(exist_ok=True)
            exclude.write_text("__pycache__/\n*.pyc\n.pytest_cache/\n")
            self._git("add", "-A", ".", env=index)
            return self._git("write-tree", env=index)

    def reset(self, tree: str) -> None:
        self._alive()
        for entry in self.root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": f"{scratch}/index"}
            self._git("read-tree", tree, env=index)
            self._git("checkout-index", "-a", "-f", env=index)

    def close(self) -> None:
        self.closed = True

    def _alive(self) -> None:
        assert not self.closed
        if self.dies:
            raise SandboxUnavailable("the sandbox is gone")

    def _path(self, path: str) -> Path:
        relative = os.path.relpath(os.path.normpath(os.path.join(WORKSPACE, path)), WORKSPACE)  # noqa: PTH118
        target = (self.root / relative).resolve()
        if not target.is_relative_to(self.root.resolve()):
            raise PermissionError(13, "outside the workspace", path)
        return target

    def _git(self, *args: str, env: Mapping[str, str]) -> str:
        argv = ["git", f"--git-dir={self.git_dir}", f"--work-tree={self.root}", "-c", "core.excludesFile=", *args]
        hermetic = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
        done = subprocess.run(argv, cwd=self.root, env=hermetic | dict(env), capture_output=True, text=True, check=True)
        return done.stdout.strip()


class _Stream:
    """Reads a pipe to its end and keeps its head and tail; sets `flooded` at four times `limit`."""

    def __init__(self, pipe: BufferedReader, limit: int, flooded: Event) -> None:
        self._pipe, self._limit, self._flooded = pipe, limit, flooded
        self._head, self._tail, self._total = b"", b"", 0
        self._thread = Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        half = self._limit // 2
        with self._pipe:
            while chunk := self._pipe.read1(65536):
                self._total += len(chunk)
                room = self._limit - half - len(self._head)
                self._head += chunk[:room]
                self._tail = (self._tail + chunk[room:])[-half:] if half else b""
                if self._total > 4 * self._limit:
                    self._flooded.set()

    def captured(self) -> Captured:
        self._thread.join()
        elided = self._total - len(self._head) - len(self._tail)
        marker = f"\n[... {elided} bytes elided ...]\n".encode() if elided else b""
        text = (self._head + marker + self._tail).decode(errors="replace")
        text = re.sub("[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", text)
        return Captured(text=text, total_bytes=self._total, elided_bytes=elided)


def _kill(mark: str) -> None:
    """Kill everything that carries `mark` in its environment, also what left its session, until nothing does."""
    while found := [pid for pid in _processes() if _carries(pid, mark)]:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _carries(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def workspace(root: Path, files: Mapping[str, str | bytes]) -> FakeSession:
    """A session with these files, and a bare repository for its trees beside it."""
    git_dir, work = root / "objects.git", root / "work"
    subprocess.run(["git", "init", "-q", "--bare", str(git_dir)], check=True, capture_output=True)
    work.mkdir()
    session = FakeSession(work, git_dir)
    for path, content in files.items():
        session.write(path, content.encode() if isinstance(content, str) else content)
    return session


def check_is_session(session: FakeSession) -> Session:
    """The type checker holds the fake to the port."""
    return session
