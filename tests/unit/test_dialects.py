"""The table of dialects, row by row: what refusals name, and what is said of windows and caches."""

from __future__ import annotations

import pytest

from worker.adapters.models.dialects import FIELDS, cached_tokens, card, too_long, unwanted


def extra(*names: str, **more: str) -> list[dict[str, object]]:
    return [
        {"type": "extra_forbidden", "loc": ["body", *name.split(".")], "msg": "Extra inputs are not permitted", **more}
        for name in names
    ]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"detail": extra("stream_options")}, ["stream_options"]),
        ({"object": "error", "message": {"detail": extra("stream_options.include_usage")}}, ["stream_options"]),
        ({"detail": extra("max_tokens", "temperature")}, ["max_tokens", "temperature"]),
        (
            {"message": "Unsupported parameter: 'max_tokens' is not supported", "param": "max_tokens"},
            ["max_tokens"],
        ),
        (
            {"message": "Unsupported value: 'temperature' does not support 0.2", "param": "temperature"},
            ["temperature"],
        ),
        ({"message": "Extra inputs are not permitted, field: 'stream_options'"}, ["stream_options"]),
        ({"message": "unknown field `tool_choice`, expected one of `model`"}, ["tool_choice"]),
        ({"message": "Streaming is not supported by this server"}, ["stream"]),
        # What is no refusal of a field's being there, or of one of ours.
        ({"message": "max_tokens=17000 cannot be greater than max_model_len=16384", "param": "max_tokens"}, []),
        ({"message": "temperature: must be at most 2", "param": "temperature"}, []),
        ({"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'}, []),
        ({"detail": extra("logit_bias")}, []),
        # A repository's own words, quoted in a refusal of something else.
        ({"detail": extra("messages.0.content", input="temperature and stream are not supported")}, []),
        ("temperature", []),
        (None, []),
    ],
)
def test_fields_that_a_refusal_names(body, names):
    words = str((body.get("message") or body.get("detail")) if isinstance(body, dict) else body)
    assert sorted(field.name for field in unwanted(body, words)) == names


@pytest.mark.parametrize(
    ("words", "window"),
    [
        ("This model's maximum context length is 16384 tokens. However, your prompt contains 40003", 16384),
        ("max_tokens=17000 cannot be greater than max_model_len=16384.", 16384),
        ("The input (61709 tokens) is longer than the model's context length (40960 tokens).", 40960),
        ("Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).", 59862),
        ("request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it", 8192),
        ("the model is loaded with context length of only 32768 tokens, which is not enough", 32768),
        ("greater than the context length (n_keep: 10247 >= n_ctx: 4096)", 4096),
        ("Prompt contains 65673 tokens, too large for model with 32768 maximum context length", 32768),
        ("`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1244 `inputs` tokens", 2048),
        ("Context size has been exceeded.", 0),
        ("context_length_exceeded", 0),
        ("`max_new_tokens` must be <= 192. Given: 500", None),  # of answers alone: not how long the window is
        ("no such model", None),
        ("the context of this error is unclear", None),
        ("rate limit exceeded", None),
    ],
)
def test_a_prompt_that_is_too_long(words, window):
    assert too_long(words) == window


def test_the_card_of_a_model():
    listed = {"data": ["x", {"id": "a", "max_model_len": 1}, {"id": "b", "aliases": ["c"], "meta": {"n_ctx": 16384}}]}
    found = card(listed, "c")
    assert found is not None
    assert (found.server, found.window) == (None, 16384)
    for nothing in ({}, {"data": None}, {"data": [{"id": "b"}, {"id": []}]}, [], None):
        assert card(nothing, "a") is None
    assert card({"data": [{"id": "a", "owned_by": "vllm", "max_model_len": True}]}, "a").window is None


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"usage": {"prompt_tokens_details": {"cached_tokens": 0}}}, 0),
        ({"usage": {"prompt_tokens_details": None, "prompt_cache_hit_tokens": 7}}, 7),
        ({"usage": {}, "timings": {"cache_n": 236}}, 236),
        ({"usage": {"prompt_tokens_details": {"cached_tokens": -1}}}, None),
        ({"usage": None}, None),
    ],
)
def test_where_cached_tokens_are_told(body, tokens):
    assert cached_tokens(body) == tokens


def test_a_field_stands_in_the_table_once():
    assert len({field.name for field in FIELDS}) == len(FIELDS)
