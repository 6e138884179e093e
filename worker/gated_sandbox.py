"""A sandbox whose commands wait for their turn at the command gate. All else passes through."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from agent.protocols import Captured, ExecResult, ExecStatus, Isolation, Sandbox, SandboxSpec, Session
from worker.gates import CommandGate
from worker.observe import Watch

log = logging.getLogger(__name__)

WORTH_TELLING = 1.0  # seconds of waiting


@dataclass(frozen=True)
class GatedSandbox:
    """Every session it opens shares the gate."""

    sandbox: Sandbox
    gate: CommandGate
    watch: Watch = field(default_factory=Watch)

    @property
    def isolation(self) -> Isolation:
        return self.sandbox.isolation

    @property
    def capabilities(self) -> frozenset[str]:
        return self.sandbox.capabilities

    def open(self, spec: SandboxSpec) -> Session:
        return GatedSession(self.sandbox.open(spec), self.gate, self.watch)


@dataclass(frozen=True)
class GatedSession:
    """A command's timeout and its `seconds` begin when it has its turn: waiting is the machine's fault, not its."""

    session: Session
    gate: CommandGate
    watch: Watch = field(default_factory=Watch)

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
        with self.gate.turn(cancel) as waited:
            if waited is None:
                nothing = Captured()
                return ExecResult(
                    status=ExecStatus.CANCELLED, returncode=None, stdout=nothing, stderr=nothing, seconds=0.0
                )
            if waited >= WORTH_TELLING:
                log.info("command_waited", extra={"gate": self.gate.name, "seconds": round(waited, 3)})
            done = self.session.exec(argv, cwd=cwd, env=env, timeout=timeout, max_output=max_output, cancel=cancel)
            self.watch.commanded(done.status.value, done.seconds, waited)
            return done

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        return self.session.read(path, max_bytes=max_bytes)

    def write(self, path: str, data: bytes) -> None:
        self.session.write(path, data)

    def snapshot(self) -> str:
        return self.session.snapshot()

    def reset(self, tree: str) -> None:
        self.session.reset(tree)

    def close(self) -> None:
        self.session.close()
