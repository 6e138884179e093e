"""Fault rules and the request log that the double's API front and git server share."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from worker.demo.github_double.serving import Reply, Request


@dataclass
class Fault:
    """Answers requests whose "METHOD path" starts with `match`, `times` times.

    `forward` lets the request through first and then loses its answer: processed, but the client can't know.
    `delay` (seconds) comes before the answer; `drop` closes the connection instead of answering.
    """

    match: str
    times: int = 1
    status: int = 502
    body: object = field(default_factory=lambda: {"message": "Server Error"})
    headers: Mapping[str, str] = field(default_factory=dict)
    forward: bool = False
    delay: float = 0.0
    drop: bool = False


@dataclass(frozen=True)
class Logged:
    """One request as it was answered; `fault` says that a rule answered it, `repair` which repair of ours did."""

    at: float
    server: str
    method: str
    path: str
    status: int
    body: bytes
    fault: bool = False
    repair: str | None = None


class Traffic:
    """Applies the fault rules and remembers every request; one line of JSON each goes to `log_file`."""

    def __init__(self, log_file: Path) -> None:
        self._faults: list[Fault] = []
        self._log: list[Logged] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._file = log_file.open("a", encoding="utf-8")
        self._repaired = threading.local()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def spent(self, match: str) -> bool:
        with self._lock:
            return all(fault.times <= 0 for fault in self._faults if fault.match == match)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def requests(self) -> list[Logged]:
        with self._lock:
            return list(self._log)

    def stop(self) -> None:
        """Ends running delays."""
        self._stopped.set()

    def close(self) -> None:
        with self._lock:
            self._file.close()

    @contextmanager
    def repairing(self) -> Iterator[None]:
        """Around one request: what `repaired` names in it goes to that request's log entry."""
        self._repaired.name = None
        yield

    def repaired(self, name: str) -> None:
        self._repaired.name = name

    def serve(self, server: str, request: Request, process: Callable[[Request], Reply]) -> Reply:
        """`process` the request, or do what the first matching rule says."""
        fault = self._take(f"{request.method} {request.path}")
        with self.repairing():
            if fault is None:
                reply = process(request)
            else:
                if fault.forward:
                    process(request)
                self._stopped.wait(fault.delay)
                reply = Reply.of(fault.status, fault.body, tuple(fault.headers.items()))
                reply = Reply(reply.status, reply.headers, reply.body, drop=fault.drop)
            self._remember(server, request, reply, fault is not None)
        return reply

    def _take(self, line: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and line.startswith(fault.match):
                    fault.times -= 1
                    return fault
        return None

    def _remember(self, server: str, request: Request, reply: Reply, fault: bool) -> None:
        entry = Logged(
            at=time.time(),
            server=server,
            method=request.method,
            path=request.path,
            status=0 if reply.drop else reply.status,
            body=request.body[:65_536],
            fault=fault,
            repair=getattr(self._repaired, "name", None),
        )
        line = {key: value for key, value in vars(entry).items() if key != "body"}
        with self._lock:
            self._log.append(entry)
            if not self._file.closed:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
