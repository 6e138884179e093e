"""The `openai:` model: any server that speaks the chat-completions protocol with tools."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Event
from typing import Any, Self

from pydantic import SecretStr

from agent.generated import GeneratedIds
from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Completion, Input, Message, Sampling, ToolSpec, Usage
from agent.wire import CallIds
from worker.adapters.models.address import ModelAddress
from worker.adapters.models.history import open_history
from worker.adapters.models.openai_answer import CALLS_IN_TEXT, Answer
from worker.adapters.models.openai_client import Aborted, CallPolicy, ChatClient
from worker.adapters.models.openai_wire import clean, finish_reason, request_message, request_tools


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
        self.usage_missing = False

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

        Raises ModelUnavailable and ModelRejected.
        """
        started = time.monotonic()
        request: dict[str, Any] = {
            "model": self._model.name,
            "messages": list(self._messages),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }
        if self._tools:
            request |= {"tools": self._tools, "tool_choice": "auto"}
        try:
            answer = self._model.client.complete(request, deadline=deadline, cancel=cancel)
        except Aborted as aborted:
            return Completion(
                message=AssistantMessage(content=aborted.answer.text if aborted.answer else ""),
                usage=self._aborted_usage(aborted.answer),
                finish_reason="abort",
                seconds=time.monotonic() - started,
            )
        message = answer.message(self._ids)
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

    def _counted(self, message: AssistantMessage) -> Usage:
        self._model.usage_missing = True
        return Usage(prompt=len(self._history), completion=self._history.reply(message))

    def _aborted_usage(self, answer: Answer | None) -> Usage:
        """Nothing when nothing was sent; else the prompt, and the text that had arrived."""
        if answer is None:
            return Usage()
        text = self._model.counter.text(answer.text)
        return answer.usage or Usage(prompt=len(self._history), completion=text)
