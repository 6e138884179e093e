"""A model server that knows what every run should do next, and every call it was asked for.

A run names itself in its issue's title; the number of answers in a request says at which step it is. Each call has a
number of its own within its run, which stands in the answer's usage as completion tokens: so a row of the ledger says
which call it pays for. Answers come at once, late, never, as an error, or break off, as a row of the table asks.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.fake_openai_server import Reply, _stream, _whole

_CASE = re.compile(r"case=([a-z0-9-]+)")
PROMPT_TOKENS = 1000
MOST_CALLS = 1000  # of one run: numbers above are none of ours


@dataclass
class Call:
    """One request for one answer."""

    case: str
    step: int
    number: int  # within its case, from 1
    started: float
    ended: float | None = None
    end: Literal["open", "answered", "aborted", "refused", "broken"] = "open"


@dataclass
class Rule:
    """What happens to the next call of a case at a step, once. `held` calls wait until `open` is set."""

    status: int = 200
    held: bool = False
    broken: bool = False  # half an answer, then the connection ends
    seconds: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)


Plan = Callable[[int, int], tuple[str, dict[str, Any]] | str]
"""(step, how often that step was asked for before) -> a tool call, or the closing words."""


def say(*steps: tuple[str, dict[str, Any]]) -> Plan:
    """These tool calls in turn, then "Fixed."."""
    return lambda step, _: steps[step] if step < len(steps) else "Fixed."


FIX = ("bash", {"command": "printf 'fixed\\n' > answer.txt"})
LOOK = ("bash", {"command": "sh check.sh"})
USUAL = say(FIX, LOOK)


class ModelServer:
    """Serves from construction until `stop`."""

    def __init__(self, default: Plan = USUAL) -> None:
        self.calls: list[Call] = []
        self.down = threading.Event()  # set: every call is refused with 500
        self._default = default
        self._plans: dict[str, Plan] = {}
        self._rules: dict[tuple[str, int], list[Rule]] = {}
        self._asked: dict[tuple[str, int], int] = {}
        self._numbers: dict[str, itertools.count[int]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self._port = 0
        self.start()

    @property
    def spec(self) -> str:
        return f"openai:http://127.0.0.1:{self._port}/v1#fault-model"

    def start(self) -> None:
        """Listen (again): a server that died comes back at the same address."""
        self._server = _Server(self, self._port)
        self._port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="model", daemon=True).start()

    def die(self) -> None:
        """Stop listening and cut every connection, in the middle of whatever it does."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()

    def stop(self) -> None:
        self._stopping.set()
        self.die()

    def plan(self, case: str, plan: Plan) -> None:
        self._plans[case] = plan

    def rule(self, case: str, step: int, **what: Any) -> Rule:
        """Adds a rule for one call; several for the same step are used in turn."""
        rule = Rule(**what)
        with self._lock:
            self._rules.setdefault((case, step), []).append(rule)
        return rule

    def hold(self, case: str, step: int) -> Rule:
        return self.rule(case, step, held=True)

    def release(self) -> None:
        """Let everything go on and forget the rules that were not used."""
        with self._lock:
            rules = [rule for found in self._rules.values() for rule in found]
            self._rules.clear()
        for rule in rules:
            rule.open.set()

    def of(self, case: str) -> list[Call]:
        with self._lock:
            return [call for call in self.calls if call.case == case]

    def begin(self, body: dict[str, Any]) -> tuple[Call, Rule, Reply]:
        messages: Sequence[dict[str, Any]] = body["messages"]
        asked = next(m["content"] for m in messages if m["role"] == "user")
        found = _CASE.search(asked if isinstance(asked, str) else json.dumps(asked))
        case = found.group(1) if found else "unknown"
        step = sum(m["role"] == "assistant" for m in messages)
        with self._lock:
            number = next(self._numbers.setdefault(case, itertools.count(1)))
            nth = self._asked.get((case, step), 0)
            self._asked[case, step] = nth + 1
            call = Call(case, step, number, time.time())
            self.calls.append(call)
            waiting = self._rules.get((case, step))
            rule = waiting.pop(0) if waiting else Rule()
            if rule.held:
                self._rules.setdefault((case, -1), []).append(rule)  # `release` still finds it
        if self.down.is_set() and rule.status == 200:
            rule = Rule(status=500)
        return call, rule, _reply(self._plans.get(case, self._default)(step, nth), call)

    def wait(self, rule: Rule, connection: socket.socket) -> bool:
        """Until the rule lets it go on; False when the client went away before."""
        rule.reached.set()
        until = time.monotonic() + rule.seconds
        while not self._stopping.is_set():
            if gone(connection):
                return False
            if rule.open.is_set() or (not rule.held and time.monotonic() >= until):
                return True
            rule.open.wait(0.02)
        return False

    def finish(self, call: Call, end: Literal["answered", "aborted", "refused", "broken"]) -> None:
        with self._lock:
            call.end, call.ended = end, time.time()


def gone(connection: socket.socket) -> bool:
    """Whether the other side hung up: then there is something to read, and it is the end."""
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


def _reply(what: tuple[str, dict[str, Any]] | str, call: Call) -> Reply:
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": call.number,
        "total_tokens": PROMPT_TOKENS + call.number,
    }
    if isinstance(what, str):
        return Reply(content=what, usage=usage)
    name, arguments = what
    return Reply(calls=((f"c{call.number:08d}", name, json.dumps(arguments)),), usage=usage)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, model: ModelServer, port: int) -> None:
        self.model = model
        self._open: set[Any] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        model = self.server.model
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        call, rule, reply = model.begin(body)
        try:
            if not model.wait(rule, self.connection):
                model.finish(call, "aborted")
                self.close_connection = True
            elif rule.status != 200:
                self._send(rule.status, "application/json", b'{"error": {"message": "out of order"}}')
                model.finish(call, "refused")
            else:
                self._answer(body, reply, call, broken=rule.broken)
        except OSError:
            model.finish(call, "aborted")
            self.close_connection = True

    def _answer(self, body: dict[str, Any], reply: Reply, call: Call, *, broken: bool) -> None:
        if not body.get("stream"):
            self._send(200, "application/json", json.dumps(_whole(reply, reply.usage)).encode())
            self.server.model.finish(call, "answered")
            return
        chunks = _stream(reply, reply.usage)
        data = [c if isinstance(c, bytes) else f"data: {json.dumps(c)}\n\n".encode() for c in chunks]
        if broken:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("content-length", "1000000")
            self.end_headers()
            self.wfile.write(b"".join(data[: len(data) // 2]))
            self.close_connection = True
            self.server.model.finish(call, "broken")
            return
        self._send(200, "text/event-stream; charset=utf-8", b"".join(data))
        self.server.model.finish(call, "answered")

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
