"""The `openai:` model: any server that speaks the chat-completions protocol with tools."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from threading import Event
from typing import Any, Self

from pydantic import SecretStr

from agent.errors import LimitsExceeded
from agent.generated import GeneratedIds
from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Completion, Input, Message, Sampling, ToolSpec, Usage
from agent.wire import CallIds
from worker.adapters.models.address import ModelAddress
from worker.adapters.models.history import open_history
from worker.adapters.models.openai_answer import CALLS_IN_TEXT, Answer
from worker.adapters.models.openai_client import Aborted, CallPolicy, ChatClient, TooLong
from worker.adapters.models.openai_wire import clean, finish_reason, request_message, request_tools

_LITTLE = 1024  # tokens that a server may count twice without having cut anything


class OpenAIModel:
    """A model on a server at a checked address. Safe for threads; close it when the process is done with it."""

    def __init__(
        self,
        address: ModelAddress,
        name: str,
        counter: TokenCounter,
        *,
        api_key: SecretStr | None = None,
        policy: CallPolicy | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self.counter = counter
        self.client = ChatClient(address.url, api_key, policy or CallPolicy())
        self._looked = False

    @property
    def usage_missing(self) -> bool:
        return self.client.seen.usage_told is False

    @property
    def label(self) -> str:
        counted = f" (tokens counted by {self.counter.label})" if self.usage_missing else ""
        return f"openai:{self.name}@{self.address.place}{counted}"

    @property
    def tokenizer(self) -> str:
        """Usage is the server's own; our count serves the budget before a call, and where a server gives no usage."""
        return f"{'no usage' if self.usage_missing else 'usage'} from the server; {self.counter.label}"

    @property
    def identity(self) -> str:
        """The name alone: workers of one profile have servers of their own, and a history is sent as a whole."""
        return f"openai:{self.name}"

    @property
    def alive(self) -> bool:
        return True

    @property
    def window(self) -> int | None:
        """What the server's list of models says, asked until somebody answered, or an error of its has said since.

        Raises ModelUnavailable.
        """
        if not self._looked:
            self.client.look(self.name)
            self._looked = True
        return self.client.seen.window

    @property
    def lacking(self) -> list[str]:
        """What the server was seen not to give, and what comes of it, for people."""
        return self.client.seen.lacking()

    def open(self, system: str, tools: Sequence[ToolSpec]) -> OpenAIConversation:
        return OpenAIConversation(self, system, tools)

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class OpenAIConversation:
    """An append-only exchange; the whole of it is sent with each call, and the server's prefix cache does the rest."""

    def __init__(self, model: OpenAIModel, system: str, tools: Sequence[ToolSpec]) -> None:
        self._model = model
        self._history = open_history(model.counter, system, tools)
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": clean(system)}] if system else []
        self._tools = request_tools(tools)
        self._ids = CallIds()
        self._told = Usage()  # of the last answer, by the server
        self._asked = 0  # our count of its prompt
        self._ratio = 1.0  # the server's count of a prompt to ours, where it is more
        self._cut = ""  # what says that the server left a part of the history out

    @property
    def tokens(self) -> int:
        return len(self._history)

    def add(self, messages: Sequence[Input]) -> None:
        for message in messages:
            self._append(message)

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:  # noqa: ARG002
        self._ids.known(answer.tool_calls)
        self._append(answer)

    def complete(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        """The server's answer. An aborted one is not appended to the history: the next call asks again.

        Raises ModelUnavailable and ModelRejected, and LimitsExceeded when the history leaves no room for an answer in
        the server's window.
        """
        started = time.monotonic()
        if self._cut:
            raise LimitsExceeded(self._cut)
        request: dict[str, Any] = {
            "model": self._model.name,
            "messages": list(self._messages),
            "temperature": sampling.temperature,
            "max_tokens": self._room(sampling.max_tokens),
        }
        if self._tools:
            request |= {"tools": self._tools, "tool_choice": "auto"}
        try:
            answer = self._fitting(request, deadline=deadline, cancel=cancel)
        except Aborted as aborted:
            return Completion(
                message=AssistantMessage(content=aborted.answer.text if aborted.answer else ""),
                usage=self._aborted_usage(aborted.answer),
                finish_reason="abort",
                seconds=time.monotonic() - started,
            )
        message = answer.message(self._ids)
        if answer.usage is not None:
            self._learn(answer.usage)
        completion = Completion(
            message=message,
            usage=answer.usage or self._counted(message),
            finish_reason=finish_reason(answer.finish, calls=bool(message.tool_calls)),
            seconds=time.monotonic() - started,
            repairs=(CALLS_IN_TEXT,) if message.raw is not None and message.tool_calls else (),
        )
        self._append(message)
        return completion

    def close(self) -> None:
        """The connection belongs to the model; the server forgets by itself."""

    def _append(self, message: Message) -> None:
        self._messages.append(request_message(message))
        self._history.add(message)

    def _fitting(self, request: dict[str, Any], *, deadline: float, cancel: Event) -> Answer:
        """The answer; a server that says only now how long its window is gets the request once more, with an answer
        that fits in."""
        client, asked = self._model.client, request["max_tokens"]
        try:
            return client.complete(request, deadline=deadline, cancel=cancel)
        except TooLong as error:
            try:
                room = self._room(asked)
                if room < asked:
                    return client.complete(request | {"max_tokens": room}, deadline=deadline, cancel=cancel)
            except TooLong:
                pass
            raise LimitsExceeded(f"context window: {error}") from error

    def _room(self, asked: int) -> int:
        """Tokens that an answer may have, of those asked for. Raises LimitsExceeded where that is none."""
        window = self._model.client.seen.window
        if window is None:
            return asked
        prompt = math.ceil(len(self._history) * self._ratio)
        if prompt >= window:
            raise LimitsExceeded(f"context window: {prompt} of the server's {window} tokens used")
        return min(asked, window - prompt)

    def _learn(self, told: Usage) -> None:
        """A history only grows, and so does the prompt, unless the server silently left a part of it out. One that
        counts only what it had not cached tells little more than what is new: that is no cut."""
        now = len(self._history)
        if 2 * (now - self._asked) + _LITTLE < told.prompt < self._told.prompt:
            self._cut = (
                f"context window: the server read {told.prompt} tokens of a conversation that had"
                f" {self._told.prompt} before, so it left a part of it out"
            )
        self._told, self._asked = told, now
        self._ratio = max(1.0, told.prompt / max(1, now))

    def _counted(self, message: AssistantMessage) -> Usage:
        prompt = len(self._history)
        return Usage(prompt=prompt, cache_untold=prompt, completion=self._history.reply(message))

    def _aborted_usage(self, answer: Answer | None) -> Usage:
        """Nothing when nothing was sent; else the prompt, and the text that had arrived."""
        if answer is None:
            return Usage()
        text = self._model.counter.text(answer.text)
        prompt = len(self._history)
        return answer.usage or Usage(prompt=prompt, cache_untold=prompt, completion=text)
