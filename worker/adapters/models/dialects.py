"""How servers of the chat-completions protocol differ, as data: what some refuse of a request, where they say what was
cached and how long their window is, and what they say when a prompt is too long for it.

What is done follows from what a server was seen to do, never from its name; the name is for people alone. Where a row
comes from stands in docs/architecture.md: vLLM's are tried in `make test-engine`, most others are second-hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """A field that some servers refuse: then it goes under the name `instead`, or not at all. `lost`: what comes of
    that, for people. `named`: how refusals in words name it, where not by its own name."""

    name: str
    instead: str | None = None
    lost: str = ""
    named: str = ""


FIELDS = (
    Field("stream_options", lost="usage comes only where the server tells it unasked"),
    Field("stream", lost="answers come whole; how far a broken-off one was is not known", named=r"\bstream(?:ing)?\b"),
    Field("max_tokens", instead="max_completion_tokens"),
    Field("temperature", lost="it samples at a temperature of its own"),
    Field("tool_choice"),  # "auto" is what servers do with tools anyway
)

_UNWANTED = re.compile(
    r"not permitted|not allowed|unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|extra_forbidden"
    r"|refuses? to",
    re.IGNORECASE,
)

# Where an answer's body says how many of the prompt's tokens were read from a cache; the first that is there counts.
CACHED = (
    ("usage", "prompt_tokens_details", "cached_tokens"),  # OpenAI, vLLM, SGLang, llama.cpp
    ("usage", "prompt_cache_hit_tokens"),  # DeepSeek
    ("timings", "cache_n"),  # llama.cpp before it had the first
)

# Where an entry of the list of models says how many tokens prompt and answer have together.
WINDOW = (
    ("max_model_len",),  # vLLM, SGLang
    ("meta", "n_ctx"),  # llama.cpp; `n_ctx_train` beside it is the model's, not the server's
    ("context_length",),  # routers
    ("max_context_length",),  # Mistral
)

# What is said of a prompt that is too long, with the window's tokens where they are told.
_TOO_LONG = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"maximum context length is (\d+)",  # vLLM, OpenAI
        r"max_model_len=(\d+)",  # vLLM, of an answer alone
        r"maximum model length of (\d+)",  # vLLM's engine
        r"context length \((\d+) tokens",  # SGLang
        r"maximum allowed length \((\d+) tokens",  # SGLang, of its KV memory
        r"context size \((\d+) tokens",  # llama.cpp
        r"context length of only (\d+) tokens",  # LM Studio
        r"n_ctx: (\d+)",  # LM Studio
        r"model with (\d+) maximum context length",  # Mistral
        r"`inputs` tokens \+ `max_new_tokens` must be <= (\d+)",  # TGI
        r"context_length_exceeded|context (?:length|size|window)[^.]{0,40} exceeded|exceeds?[^.]{0,60} context",
    )
)


@dataclass(frozen=True)
class Server:
    """`owned_by`: what it puts there in its list of models. `cached`: what makes it tell cached tokens."""

    name: str
    owned_by: str
    cached: str = ""


SERVERS = (
    Server("vLLM", "vllm", "start it with --enable-prompt-tokens-details"),
    Server("SGLang", "sglang", "start it with --enable-cache-report"),
    Server("llama.cpp", "llamacpp", "releases since February 2026 tell them"),
    Server("Ollama", "library", "its protocol has no place for them"),
    Server("LM Studio", "organization_owner"),
    Server("Mistral", "mistralai"),
)


@dataclass(frozen=True)
class Card:
    """What a list of models says of one of them."""

    server: Server | None
    window: int | None  #: tokens of prompt and answer


def card(listed: Any, name: str) -> Card | None:
    """The model `name` in the answer to `GET /models`; None where it isn't in it."""
    entries = listed.get("data") if isinstance(listed, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and (entry.get("id") == name or name in _aliases(entry)):
            server = next((one for one in SERVERS if one.owned_by == entry.get("owned_by")), None)
            return Card(server, _first(entry, WINDOW, least=1))
    return None


def _aliases(entry: dict[str, Any]) -> set[str]:
    """llama.cpp's other names of a model."""
    names = entry.get("aliases")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def cached_tokens(body: Mapping[str, Any]) -> int | None:
    """None: this answer does not say."""
    return _first(body, CACHED, least=0)


def words(body: Any) -> str:
    """An error's message, wherever a server puts it; empty where it has none."""
    for key in ("message", "detail", "error"):
        if isinstance(body, dict) and body.get(key):
            return str(body[key])
    return str(body or "")


def unwanted(body: Any, said: str) -> tuple[Field, ...]:
    """The fields that a refusal says it doesn't take. Where its form names them, its words count for nothing: they
    may quote what was sent."""
    if too_long(said) is not None or not _UNWANTED.search(f"{said} {body}"):
        return ()
    formal = _formally(body)
    if formal:
        return tuple(field for field in FIELDS if field.name in formal)
    return tuple(field for field in FIELDS if re.search(field.named or rf"\b{field.name}\b", said, re.IGNORECASE))


def too_long(said: str) -> int | None:
    """The window of a server that says a prompt or its answer is too long for it, 0 where it doesn't say how long that
    is; None when it says something else."""
    for pattern in _TOO_LONG:
        if found := pattern.search(said):
            return int(found[1]) if pattern.groups else 0
    return None


def _formally(body: Any) -> set[str]:
    """Names of fields in a pydantic server's list of errors (`loc`) or in OpenAI's `param`, wherever that stands."""
    if isinstance(body, list):
        return set().union(*map(_formally, body))
    if not isinstance(body, dict):
        return set()
    if isinstance(place := body.get("loc"), list | tuple):
        return {next((str(part) for part in place if part != "body"), "")} - {""}
    if isinstance(name := body.get("param"), str) and name:
        return {name}
    return set().union(*(_formally(body.get(key)) for key in ("detail", "message", "error")))


def _first(data: Any, paths: tuple[tuple[str, ...], ...], *, least: int) -> int | None:
    for path in paths:
        value = data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
    return None
