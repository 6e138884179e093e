"""The fake server in the dialects of real ones. It checks what it is sent as strictly as the dialect says, counts
tokens with a real vocabulary, and answers what the request says it should (`wanted`)."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from pydantic import SecretStr

from agent.tokens import TokenCounter
from agent.types import AssistantMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.model_dialects import MISSING, Dialect
from tests.model_server_contract import Wanted

COUNTER = TokenCounter()
WINDOW = 16_384
ENDLESS = 100_000  # tokens


class DialectServer(FakeOpenAIServer):
    """Any number of requests at once; a site of the contract."""

    name = "devstral"
    counter = COUNTER
    window = WINDOW

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(streaming="yes" if dialect.streams else "ignored")
        self.dialect = dialect
        self.key = SecretStr("sk-right-0123456789") if dialect.key else None
        self.any_name = dialect.any_name
        self.tells_window = dialect.window_at is not None
        self.tells_cached = dialect.cached is not None
        self.tells_usage = dialect.usage and dialect.usage_streamed
        self.cuts = not dialect.too_long
        self._seen: set[str] = set()

    def extra(self, wanted: Wanted) -> dict[str, Any]:
        return {"wanted": vars(wanted)}

    def running(self) -> int:
        return self.hung

    def models(self) -> Reply:
        card: dict[str, Any] = {"id": self.name, "object": "model", "owned_by": self.dialect.owned_by}
        if self.dialect.window_at:
            _put(card, self.dialect.window_at, self.window)
        return Reply(body={"object": "list", "data": [{"id": "another", "max_model_len": 99}, card]})

    def next_reply(self, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        with self._lock:
            self.requests.append((headers, body))
        wanted = Wanted(**body.pop("wanted"))
        return self._refused(headers, body) or self._answer(wanted, body)

    def usage(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any] | None:
        if not body.get("stream"):
            return reply.usage
        asked = self.dialect.usage_unasked or "stream_options" in body
        return reply.usage if asked and self.dialect.usage_streamed else None

    # --- what is refused ------------------------------------------------------------------------------------------

    def _refused(self, headers: dict[str, str], body: dict[str, Any]) -> Reply | None:
        dialect = self.dialect
        if self.key and headers.get("authorization") != f"Bearer {self.key.get_secret_value()}":
            return Reply(status=401, body={"error": "Unauthorized"})
        if body["model"] != self.name and not dialect.any_name:
            words = f"The model `{body['model']}` does not exist."
            return Reply(status=404, body={"error": {"message": words, "param": "model", "code": 404}})
        if unknown := sorted(body.keys() - dialect.takes):
            if dialect.refusal:
                return _unknown(dialect.refusal, unknown, body)
            for name in unknown:
                del body[name]
        if problem := self._history(body["messages"]):
            return Reply(status=400, body={"object": "error", "message": problem})
        prompt, answer = _count(body), _limit(body)
        if dialect.too_long and prompt + (answer if dialect.sums else 1) > self.window:
            words = dialect.too_long.format(prompt=prompt, window=self.window, answer=answer)
            return Reply(status=400, body={"error": {"message": words, "type": "BadRequestError", "code": 400}})
        return None

    def _history(self, messages: list[dict[str, Any]]) -> str:
        """What is wrong with it: no server takes a call without its result, or arguments that are no JSON object."""
        open_calls: list[str] = []
        for message in messages:
            if not isinstance(message.get("content"), str):
                return "missing field `content`"
            if message["role"] == "tool":
                if message["tool_call_id"] not in open_calls:
                    return "a result of no call"
                open_calls.remove(message["tool_call_id"])
                continue
            if open_calls:
                return "Not the same number of function calls and responses"
            if message["role"] == "assistant" and not message["content"] and not message.get("tool_calls"):
                return "Assistant message must have either content or tool_calls, but not none."
            for call in message.get("tool_calls", ()):
                if self.dialect.strict_ids and not re.fullmatch(r"[a-zA-Z0-9]{9}", call["id"]):
                    return f"Tool call id was {call['id']} but must be a-z, A-Z, 0-9, with a length of 9."
                try:
                    assert isinstance(json.loads(call["function"]["arguments"]), dict)
                except (ValueError, AssertionError):
                    return "arguments are no JSON object"
                open_calls.append(call["id"])
        return "" if not open_calls else "a call without its result"

    # --- what is answered -----------------------------------------------------------------------------------------

    def _answer(self, wanted: Wanted, body: dict[str, Any]) -> Reply:
        dialect, limit = self.dialect, _limit(body)
        text = "word " * min(limit, 400) if wanted.endless else wanted.text
        arguments = ['{"command": "l'] if wanted.broken else [f'{{"command": "ls {n}"}}' for n in range(wanted.calls)]
        calls = tuple((self._id(), "bash", one) for one in arguments)
        length = wanted.endless and limit < 1000
        hang = "after" if wanted.endless and not length else None
        finish = "length" if length else dialect.calls_finish if calls else "stop"
        usage = self._told(body, limit if wanted.endless else 4) if dialect.usage else None
        reply = Reply(content=text, calls=calls, finish=finish, usage=usage, hang=hang)
        if hang:  # the call goes on: neither its end nor its usage is there yet
            reply.chunks = self.stream(reply, None)[:-2]
            if not body.get("stream"):
                reply.hang = "before"
        return reply

    def _told(self, body: dict[str, Any], completion: int) -> dict[str, Any]:
        """The usage, with what the cache had: the messages that came before, as they were."""
        prompt = _count(self._cut(body) if self.cuts else body)
        history = json.dumps(body["messages"][:2])
        with self._lock:
            cached = prompt // 2 if history in self._seen else 0
            self._seen.add(history)
        told: dict[str, Any] = {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}
        if self.dialect.cached:
            _put(told, self.dialect.cached, cached)
        return told

    def _cut(self, body: dict[str, Any]) -> dict[str, Any]:
        """Without as many of its oldest messages as it takes to fit."""
        messages = list(body["messages"])
        while len(messages) > 1 and _count({**body, "messages": messages}) > self.window:
            del messages[0]
        return {**body, "messages": messages}

    def _id(self) -> str | None:
        match self.dialect.ids:
            case "mistral":
                return uuid.uuid4().hex[:9]
            case "openai":
                return f"call_{uuid.uuid4().hex[:24]}"
            case "uuid":
                return uuid.uuid4().hex
            case "numbers":
                return str(uuid.uuid4().int % 10**9)
            case "same":
                return "0"
            case _:
                return None

    def whole(self, reply: Reply, usage: dict[str, Any] | None) -> dict[str, Any]:
        choice = {"index": 0, "message": self._message(reply), "finish_reason": reply.finish}
        return {"id": "c", "object": "chat.completion", "choices": [choice], **(usage or {})}

    def stream(self, reply: Reply, usage: dict[str, Any] | None) -> list[Any]:
        message = self._message(reply)
        calls = message.pop("tool_calls", ())
        deltas: list[dict[str, Any]] = []
        if "reasoning_content" in message:
            deltas.append({"role": "assistant", "reasoning_content": message.pop("reasoning_content")})
        deltas.append(message)
        for number, call in enumerate(calls):
            index = {"index": number} if self.dialect.index else {}
            if self.dialect.whole_calls:
                deltas.append({"tool_calls": [index | call]})
                continue
            arguments = call["function"]["arguments"]
            deltas.append({"tool_calls": [index | call | {"function": call["function"] | {"arguments": ""}}]})
            deltas += [
                {"tool_calls": [index | {"function": {"arguments": arguments[at : at + 4]}}]}
                for at in range(0, len(arguments), 4)
            ]
        chunks: list[Any] = [_chunk(delta) for delta in deltas] + [_chunk({}, reply.finish)]
        if usage is not None:
            chunks.append({"choices": [], **usage})
        return [*chunks, b"data: [DONE]\n\n"]

    def _message(self, reply: Reply) -> dict[str, Any]:
        dialect = self.dialect
        content: Any = reply.content or (dialect.content if reply.calls else "")
        if dialect.text_in_parts and reply.content:
            content = [{"type": "text", "text": content}]
        message: dict[str, Any] = {"role": "assistant"} | ({} if content is MISSING else {"content": content})
        if dialect.reasoning:
            message["reasoning_content"] = "I think about it."
        if reply.calls:
            message["tool_calls"] = [self._call(*call) for call in reply.calls]
        return message

    def _call(self, given: str | None, name: str, arguments: str) -> dict[str, Any]:
        shown: Any = arguments
        if self.dialect.arguments_as_object:
            try:
                shown = json.loads(arguments)
            except ValueError:
                shown = {"unparsed": arguments}  # such a server has no other way to show it
        call = {"id": given, "type": "function", "function": {"name": name, "arguments": shown}}
        return {key: value for key, value in call.items() if value is not None}


def _unknown(form: str, names: list[str], body: dict[str, Any]) -> Reply:
    """How servers word it, as far as it is known from reports of theirs."""
    errors = [
        {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": body[name]}
        for name in names
    ]
    if form == "mistral":
        return Reply(
            status=422, body={"object": "error", "message": {"detail": errors}, "type": "invalid_request_error"}
        )
    if form == "pydantic":
        return Reply(status=422, body={"detail": errors})
    if form == "words":
        words = f"Extra inputs are not permitted, field: '{names[0]}'"
        return Reply(status=400, body={"error": {"object": "error", "message": words}})
    words = f"Unsupported parameter: '{names[0]}' is not supported with this model."
    error = {"message": words, "type": "invalid_request_error", "param": names[0], "code": "unsupported_parameter"}
    return Reply(status=400, body={"error": error})


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _limit(body: dict[str, Any]) -> int:
    return body.get("max_tokens") or body.get("max_completion_tokens") or ENDLESS


def _count(body: dict[str, Any]) -> int:
    """The prompt's tokens, from what was sent alone."""
    messages = list(body["messages"])
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    history = COUNTER.open(system, [ToolSpec(**tool["function"]) for tool in body.get("tools", ())])
    for message in messages:
        if message["role"] == "user":
            history.add(UserMessage(content=message["content"]))
        elif message["role"] == "tool":
            history.add(ToolMessage(tool_call_id=message["tool_call_id"], name="", content=message["content"]))
        else:
            calls = [ToolCall(id=c["id"], **c["function"]) for c in message.get("tool_calls", ())]
            history.add(AssistantMessage(content=message["content"].strip(), tool_calls=tuple(calls)))
    return len(history)


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value
