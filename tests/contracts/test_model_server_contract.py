"""The contract of model servers in the dialect of each: the fake server, which is as strict as theirs are."""

from __future__ import annotations

import pytest

from tests.dialect_server import DialectServer
from tests.model_dialects import DIALECTS, Dialect
from tests.model_server_contract import DONE, TOOLS, USER, ModelServerContract, Wanted, ask, dies, opened, results
from worker.adapters.models.dialects import SERVERS
from worker.errors import ModelUnavailable


class TestDialects(ModelServerContract):
    @pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
    def site(self, request):
        with DialectServer(request.param) as server:
            yield server


def test_a_server_that_dies_fails_its_calls_for_now():
    with DialectServer(dialect("vllm")) as server:
        dies(server, server.kill)


def sent(server: DialectServer) -> list[frozenset[str]]:
    """The fields of each request that it got."""
    return [frozenset(body) for _, body in server.requests]


def dialect(name: str) -> Dialect:
    return next(one for one in DIALECTS if one.name == name)


@pytest.mark.parametrize(
    ("name", "refusals", "then"),
    [
        ("vllm", 0, {"max_tokens", "temperature", "stream", "stream_options"}),
        ("fireworks", 1, {"max_tokens", "temperature", "stream"}),
        ("mistral", 1, {"max_tokens", "temperature", "stream"}),
        ("openai", 2, {"max_completion_tokens", "stream", "stream_options"}),
        ("plain", 1, {"max_tokens"}),
    ],
)
def test_a_refused_field_is_left_out_or_renamed_and_that_is_remembered(name, refusals, then):
    with DialectServer(dialect(name)) as server, opened(server) as model:
        conversation = model.open("", ())
        assert ask(conversation, DONE, USER).message.content == "Done."
        assert ask(model.open("", ()), DONE, USER).message.content == "Done."
        requests = sent(server)
        assert len(requests) == refusals + 2
        assert requests[-1] == requests[-2] == frozenset({"model", "messages", *then})


def test_what_is_lacking_is_said_with_what_mends_it():
    with DialectServer(dialect("vllm-as-it-starts")) as server, opened(server) as model:
        assert model.window == server.window
        assert model.lacking == []
        ask(model.open("", ()), DONE, USER)
        (words,) = model.lacking
        assert words.startswith("cached tokens are not told: what was computed again is unknown, and costs are ranges")
        assert words.endswith("(start it with --enable-prompt-tokens-details)")
    with DialectServer(dialect("plain")) as server, opened(server) as model:
        ask(model.open("", TOOLS), DONE, USER)
        assert [words.partition(":")[0] for words in model.lacking] == [
            "usage is not told",
            "its window is not told",
            "stream_options is refused",
            "stream is refused",
            "temperature is refused",
            "tool_choice is refused",
        ]


def test_cached_tokens_that_were_told_once_are_not_missing_where_there_are_none():
    """Some servers leave the figure out of an answer that had none."""
    with DialectServer(dialect("vllm")) as server, opened(server) as model:
        conversation = model.open("", TOOLS)
        assert model.window
        first = ask(conversation, Wanted(calls=1), USER)
        server.dialect = dialect("vllm-as-it-starts")
        assert ask(conversation, DONE, *results(first)).usage.cache_untold > 0
        assert model.lacking == []


def test_the_list_of_models_is_asked_until_it_answered_and_then_no_more():
    server = DialectServer(dialect("vllm"))
    asked = []
    whole = server.models
    server.models = lambda: (asked.append(1), whole())[1]
    with server, opened(server) as model:
        assert [model.window for _ in range(3)] == [server.window] * 3
    assert len(asked) == 1
    with opened(server) as model, pytest.raises(ModelUnavailable, match="no connection"):  # nobody is there
        assert model.window


def test_every_server_that_is_known_by_name_speaks_a_dialect_here():
    assert {server.owned_by for server in SERVERS} <= {one.owned_by for one in DIALECTS}
