"""A real HTTP server on loopback that speaks the chat-completions protocol, with the faults a test asks for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

DEFAULT = "default"


@dataclass
class Reply:
    """How one request is answered. Without `status`, `hang` and `drop`: a well-behaved chat completion."""

    content: Any = ""
    calls: tuple[tuple[str | None, str, str], ...] = ()  # id, name, arguments
    finish: str | None = DEFAULT
    usage: dict[str, Any] | str | None = DEFAULT
    status: int = 200
    body: Any = None  # of an error, or instead of the completion
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[Any] | None = None  # the stream's JSON data (or bytes, sent as they are), instead of our own
    hang: str | None = None  # "before" the headers or "after" the chunks: until the client goes away
    after: threading.Event | None = None  # answered once it is set
    drop: bool = False  # cut the connection after the chunks, before the end


class FakeOpenAIServer:
    """Answers requests with `replies` in turn; past the last one with 500. `requests` keeps (headers, body)."""

    def __init__(self, *replies: Reply, streaming: str = "yes") -> None:
        """`streaming`: "yes", "refused" (400) or "ignored" (a whole body whatever is asked)."""
        self.replies = list(replies)
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.hanging = threading.Event()
        self.disconnected = threading.Event()
        self.streaming = streaming
        self.last_prompt = 0
        self._hung: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._thread.join()

    def kill(self) -> None:
        """Nobody listens any more, and connections that hang are cut. Again: nothing happens."""
        self._server.shutdown()
        with self._lock:
            for connection in self._hung:
                with _gone():
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def next_reply(self, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        with self._lock:
            self.requests.append((headers, body))
            if self.streaming == "refused" and body.get("stream"):
                return Reply(status=400, body={"error": {"message": "Streaming is not supported by this server"}})
            return self.replies.pop(0) if self.replies else Reply(status=500, body={"error": {"message": "no reply"}})

    def models(self) -> Reply:
        """The answer to `GET /v1/models`: no such place, unless a subclass has one."""
        return Reply(status=404, body={"detail": "Not Found"})

    def whole(self, reply: Reply, usage: dict[str, Any] | None) -> dict[str, Any]:
        return _whole(reply, usage)

    def stream(self, reply: Reply, usage: dict[str, Any] | None) -> list[Any]:
        return _stream(reply, usage)

    @property
    def hung(self) -> int:
        """Connections that hang now."""
        with self._lock:
            return len(self._hung)

    def usage(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any] | None:
        if reply.usage != DEFAULT:
            return reply.usage
        with self._lock:
            prompt, cached = 100 * len(body["messages"]), min(self.last_prompt, 100 * len(body["messages"]))
            self.last_prompt = prompt
        return {
            "prompt_tokens": prompt,
            "completion_tokens": 5,
            "total_tokens": prompt + 5,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def hang(self, connection: socket.socket) -> None:
        with self._lock:
            self._hung.append(connection)
        self.hanging.set()
        with _gone():
            while connection.recv(1024):
                pass
        with self._lock:
            self._hung.remove(connection)
        self.disconnected.set()


def _gone() -> contextlib.suppress:
    """The client, or the test, may go away at any time."""
    return contextlib.suppress(OSError)


def _finish(reply: Reply) -> str | None:
    return ("tool_calls" if reply.calls else "stop") if reply.finish == DEFAULT else reply.finish


def _stream(reply: Reply, usage: dict[str, Any] | None) -> list[Any]:
    """A stream as vLLM sends it: text in pieces, each call opened with its name and filled in pieces."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    chunks: list[Any] = [chunk({"role": "assistant", "content": ""})]
    text = reply.content
    pieces = [text] if not isinstance(text, str) else [text[i : i + 3] for i in range(0, len(text), 3)]
    chunks += [chunk({"content": piece}) for piece in pieces]
    for index, (call_id, name, arguments) in enumerate(reply.calls):
        opened = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        chunks.append(chunk({"tool_calls": [opened]}))
        chunks += [
            chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments[i : i + 4]}}]})
            for i in range(0, len(arguments), 4)
        ]
    chunks.append(chunk({}, _finish(reply)))
    if usage is not None:
        chunks.append({**head, "choices": [], "usage": usage})
    return [*chunks, b"data: [DONE]\n\n"]


def _whole(reply: Reply, usage: dict[str, Any] | None) -> dict[str, Any]:
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in reply.calls
    ]
    message = {"role": "assistant", "content": reply.content, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply)}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return {**body, "usage": usage} if usage is not None else body


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeOpenAIServer) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        reply = self.server.fake.models()
        with _gone():
            self._send_body(reply, reply.body)

    def do_POST(self) -> None:
        with _gone():
            self._answer()

    def _answer(self) -> None:
        fake = self.server.fake
        data = self.rfile.read(length := int(self.headers["content-length"]))
        if len(data) < length:  # the client went away
            self.close_connection = True
            return
        body = json.loads(data)
        reply = fake.next_reply({k.lower(): v for k, v in self.headers.items()}, body)
        if self.path != "/v1/chat/completions":
            reply = Reply(status=404, body={"detail": "Not Found"})
        if reply.hang == "before":
            fake.hang(self.connection)
            self.close_connection = True
            return
        if reply.after is not None:
            reply.after.wait(60)
        usage = fake.usage(reply, body) if reply.status == 200 else None
        if reply.status != 200 or reply.body is not None:
            self._send_body(reply, reply.body)
        elif body.get("stream") and fake.streaming != "ignored":
            self._send_stream(reply, reply.chunks if reply.chunks is not None else fake.stream(reply, usage))
        else:
            self._send_body(reply, fake.whole(reply, usage))

    def _send_body(self, reply: Reply, value: Any) -> None:
        data = value if isinstance(value, bytes) else _json(value)
        self.send_response(reply.status)
        for name, text in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_stream(self, reply: Reply, chunks: list[Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        # Closing is the end of the body, as behind many proxies, unless a length was promised.
        self.send_header(*(("content-length", "1000000") if reply.drop else ("connection", "close")))
        self.end_headers()
        self.close_connection = True
        for chunk in chunks:
            data = chunk if isinstance(chunk, bytes) else f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
            self.wfile.write(data)
            self.wfile.flush()
        if reply.hang == "after":
            self.server.fake.hang(self.connection)
