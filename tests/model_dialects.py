"""How servers behave, as data for the fake one: what each takes, how it answers, and what it says when it refuses.
Where a row comes from stands in docs/architecture.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SENT = frozenset({"model", "messages", "temperature", "max_tokens", "tools", "tool_choice", "stream", "stream_options"})
MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """`refusal`: the form in which fields that are not in `takes` are refused; empty: they are ignored. `ids`: of the
    calls that it makes; `strict_ids`: only nine alphanumerics are taken back. `content`: of an answer of calls alone.
    `cached`: where it tells it. `too_long`: what it says of a prompt, or of a prompt and its answer, that is too long;
    empty: it cuts the prompt and says nothing."""

    name: str
    owned_by: str = "x"
    takes: frozenset[str] = SENT
    refusal: str = ""
    streams: bool = True
    whole_calls: bool = False
    index: bool = True
    ids: str = "mistral"
    strict_ids: bool = False
    arguments_as_object: bool = False
    content: Any = ""
    text_in_parts: bool = False
    reasoning: bool = False
    calls_finish: str = "tool_calls"
    usage: bool = True
    usage_unasked: bool = False
    usage_streamed: bool = True
    cached: tuple[str, ...] | None = None
    window_at: tuple[str, ...] | None = None
    too_long: str = "This model's maximum context length is {window} tokens. However, your prompt has {prompt}."
    sums: bool = True  #: the answer's limit counts with the prompt
    any_name: bool = False
    key: bool = False


DIALECTS = (
    Dialect(
        name="vllm",
        owned_by="vllm",
        content=None,
        cached=("usage", "prompt_tokens_details", "cached_tokens"),
        window_at=("max_model_len",),
        sums=False,
        key=True,
    ),
    Dialect(name="vllm-as-it-starts", owned_by="vllm", content=None, window_at=("max_model_len",), sums=False),
    Dialect(
        name="sglang",
        owned_by="sglang",
        ids="openai",
        content=None,
        reasoning=True,
        window_at=("max_model_len",),
        too_long="The input ({prompt} tokens) is longer than the model's context length ({window} tokens).",
    ),
    Dialect(
        name="llama.cpp",
        owned_by="llamacpp",
        ids="uuid",
        content=None,
        reasoning=True,
        cached=("usage", "prompt_tokens_details", "cached_tokens"),
        window_at=("meta", "n_ctx"),
        too_long="request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it",
        sums=False,
        any_name=True,
    ),
    Dialect(
        name="llama.cpp-of-2025",
        owned_by="llamacpp",
        ids="absent",
        content=None,
        cached=("timings", "cache_n"),
        too_long="request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it",
        sums=False,
        any_name=True,
    ),
    Dialect(
        name="ollama",
        owned_by="library",
        takes=SENT - {"tool_choice"},
        ids="openai",
        whole_calls=True,
        reasoning=True,
        too_long="",
    ),
    Dialect(
        name="lm-studio",
        owned_by="organization_owner",
        ids="numbers",
        too_long="The number of tokens to keep from the initial prompt is greater than the context length"
        " (n_keep: {prompt}>= n_ctx: {window}).",
    ),
    Dialect(
        name="tgi",
        ids="same",
        whole_calls=True,
        arguments_as_object=True,
        calls_finish="stop",
        index=False,
        usage_streamed=False,
        too_long="Input validation error: `inputs` tokens + `max_new_tokens` must be <= {window}. Given: {prompt}"
        " `inputs` tokens and {answer} `max_new_tokens`",
        any_name=True,
    ),
    Dialect(name="fireworks", takes=SENT - {"stream_options"}, refusal="words", ids="openai", usage_unasked=True),
    Dialect(
        name="mistral",
        owned_by="mistralai",
        takes=SENT - {"stream_options"},
        refusal="mistral",
        strict_ids=True,
        whole_calls=True,
        usage_unasked=True,
        window_at=("max_context_length",),
        too_long="Prompt contains {prompt} tokens, too large for model with {window} maximum context length",
        key=True,
    ),
    Dialect(
        name="openai",
        takes=SENT - {"max_tokens", "temperature"} | {"max_completion_tokens"},
        refusal="openai",
        ids="openai",
        content=None,
        cached=("usage", "prompt_tokens_details", "cached_tokens"),
        key=True,
    ),
    Dialect(
        name="plain",
        takes=frozenset({"model", "messages", "tools", "max_tokens"}),
        refusal="pydantic",
        streams=False,
        ids="absent",
        content=MISSING,
        text_in_parts=True,
        usage=False,
        too_long="Context size has been exceeded.",
        sums=False,
    ),
)
