"""Counting tokens of a conversation in Devstral's wire format, at a cost that follows the new tokens.

The format is mistral-common's version 13: the system prompt first, the tool list before the first user message, calls
as `[TOOL_CALLS]name[ARGS]{json}`, results without ids. Version 13 never rewrites what was encoded, so a history grows
at its end and a prefix cache keeps hitting. The one exception is written at `TokenHistory.add`.

With a profile's own tekken.json the counts are the model's. Without one, mistral-common's bundled `tekken_240911` is
used: the same family of vocabulary, but not proven equal to Devstral's, and labelled `(approximate)`. The bundled
files know the special tokens of version 3 only, whose wire format differs in every message, so the newer tokens are
put into its reserved slots (`agent.tekken`) rather than counting in the wrong format.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.types import AssistantMessage, Message, ToolCall, ToolSpec, UserMessage
from agent.wire import tool_call_id, wire_arguments, wire_content

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV13

BUNDLED = "tekken_240911"


class TokenizerUnusable(ValueError):
    """The vocabulary can't be read, or speaks an older wire format; the message names the file."""


class TokenCounter:
    """A vocabulary shared by all conversations of a process: loaded on first use, safe for threads, never online."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: the profile's tekken.json; None takes the bundled vocabulary, labelled approximate."""
        self._path = path
        self._lock = threading.Lock()
        self._loaded: InstructTokenizerV13 | None = None
        self._vocabulary: str | None = None

    @property
    def label(self) -> str:
        return f"{BUNDLED} (approximate)" if self._path is None else self._path.stem

    def load(self) -> InstructTokenizerV13:
        """mistral-common's tokenizer, read on the first call (about 2 seconds, then about 150 MB held).

        Raises TokenizerUnusable.
        """
        with self._lock:
            if self._loaded is None:
                from agent import tekken  # noqa: PLC0415  # mistral-common takes a second to import

                try:
                    self._loaded = tekken.load(self._path, BUNDLED)
                except (OSError, ValueError) as error:
                    raise TokenizerUnusable(f"tokenizer file {self._path or BUNDLED}: {error}") from error
            return self._loaded

    @property
    def vocabulary(self) -> str:
        """Equal where the same ids mean the same: the start of the file's sha256. Raises TokenizerUnusable."""
        if self._vocabulary is None:
            from agent import tekken  # noqa: PLC0415

            try:
                data = tekken.file_of(self._path, BUNDLED).read_bytes()
            except OSError as error:
                raise TokenizerUnusable(f"tokenizer file {self._path or BUNDLED}: {error}") from error
            self._vocabulary = hashlib.sha256(data).hexdigest()[:16]
        return self._vocabulary

    def text(self, text: str) -> int:
        """Tokens of plain text, without any message around it."""
        return len(self.load().tokenizer.encode(text, False, False))

    def open(self, system: str, tools: Sequence[ToolSpec]) -> TokenHistory:
        """A new history holding the system prompt; raises TokenizerUnusable."""
        return TokenHistory(self.load(), system, tools)


class TokenHistory:
    """One conversation as token ids, appended to message by message; not shared between threads."""

    def __init__(self, tokenizer: InstructTokenizerV13, system: str, tools: Sequence[ToolSpec]) -> None:
        from mistral_common.protocol.instruct import messages, tool_calls  # noqa: PLC0415  # loaded by now

        self._tokenizer = tokenizer
        self._messages: Any = messages
        self._calls: Any = tool_calls
        self._tools = [
            tool_calls.Tool(
                function=tool_calls.Function(name=t.name, description=t.description, parameters=t.parameters)
            )
            for t in tools
        ]
        self._ids = array("i", tokenizer.start())
        if system:
            self._ids.extend(tokenizer.encode_system_message(messages.SystemMessage(content=system))[0])
        self._had_user = False
        # The user message at the very end, and where its tokens start: a second one in a row is merged into it.
        self._open_user: tuple[int, str, bool] | None = None

    def __len__(self) -> int:
        """Tokens so far: the next call's prompt, once the history ends in a user or tool message."""
        return len(self._ids)

    @property
    def ids(self) -> array[int]:
        """A copy of the token ids."""
        return self._ids[:]

    def since(self, start: int) -> array[int]:
        """A copy of those from `start` on."""
        return self._ids[start:]

    def add(self, message: Message) -> int:
        """Append `message` and return how many of the leading tokens were kept, which is all of them but in one case.

        A user message directly after another one is merged with it, as mistral-common does, from the start of the
        first of them. Tool results must come in the order of their calls, as they stand on the wire.
        """
        kept = len(self._ids)
        if isinstance(message, UserMessage):
            text, first = message.content, not self._had_user
            if self._open_user is not None:
                kept, before, first = self._open_user
                text = f"{before}\n\n{text}"
                del self._ids[kept:]
            self._ids.extend(self._user(text, first=first))
            self._open_user, self._had_user = (kept, text, first), True
            return kept
        self._open_user = None
        if isinstance(message, AssistantMessage):
            self._ids.extend(self._assistant(message))
        else:
            self._ids.extend(
                self._tokenizer.encode_tool_message(
                    self._messages.ToolMessage(
                        content=message.content, tool_call_id=message.tool_call_id, name=message.name
                    ),
                    is_before_last_user_message=False,
                )[0]
            )
        return kept

    def extend(self, ids: array[int]) -> None:
        """Append an answer as it was generated: history keeps the very tokens that the engine's cache knows."""
        self._open_user = None
        self._ids.extend(ids)

    def reply(self, message: AssistantMessage) -> int:
        """Completion tokens of `message`, the closing token included, without appending it."""
        return len(self._assistant(message))

    def _user(self, text: str, *, first: bool) -> list[int]:
        return self._tokenizer.encode_user_message(
            self._messages.UserMessage(content=text), self._tools, is_last=True, is_first=first
        )[0]

    def _assistant(self, message: AssistantMessage) -> list[int]:
        return self._tokenizer.encode_assistant_message(
            self._messages.AssistantMessage(
                content=wire_content(message) or None, tool_calls=[self._call(call) for call in message.tool_calls]
            ),
            is_before_last_user_message=False,
        )

    def _call(self, call: ToolCall) -> Any:
        # Version 13 puts no id on the wire; any valid one passes its check.
        function = self._calls.FunctionCall(name=call.name, arguments=wire_arguments(call.arguments))
        return self._calls.ToolCall(id=tool_call_id(0), function=function)
