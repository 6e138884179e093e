"""What the service needs of an OpenAI-compatible server, and what its client makes of it: one suite, for the fake
server in each dialect (`make test`) and for the real vLLM (`make test-engine`).

A subclass gives the fixture `site`. What a model is to answer travels with the request, in the server's own way: the
fake does as it is told, vLLM is held to a grammar. Nothing else is added to what the client sends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from agent.errors import LimitsExceeded
from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Completion, Sampling, ToolMessage, ToolSpec, Usage, UserMessage
from worker.adapters.models.address import check_address
from worker.adapters.models.dialects import FIELDS
from worker.adapters.models.openai_client import CallPolicy, ChatClient
from worker.adapters.models.openai_server import OpenAIConversation, OpenAIModel
from worker.errors import ModelRejected, ModelUnavailable

SYSTEM = "You mend code."
PARAMETERS = {
    "type": "object",
    "properties": {"command": {"type": "string", "maxLength": 20}},
    "required": ["command"],
    "additionalProperties": False,
}
TOOLS = (ToolSpec(name="bash", description="Run.", parameters=PARAMETERS),)
USER = UserMessage(content="Fix it.")
POLICY = CallPolicy(backoff_seconds=0.001, longest_wait_seconds=0.2, connect_seconds=5, read_seconds=60)
AT_ONCE = 4


@dataclass(frozen=True)
class Wanted:
    """What the model is to answer: `text`, or so many `calls` of the tool `bash`, or one call that is `broken` off in
    its arguments, or text that does not end before the limit (`endless`)."""

    text: str = ""
    calls: int = 0
    broken: bool = False
    endless: bool = False


DONE = Wanted(text="Done.")


class Site(Protocol):
    """A server that runs, and what is known of it."""

    url: str
    name: str
    key: SecretStr | None
    counter: TokenCounter  #: of the model's own vocabulary
    window: int
    tells_window: bool  #: in its list of models
    tells_cached: bool
    tells_usage: bool
    cuts: bool  #: a prompt that is too long, and says nothing
    any_name: bool  #: of a model is answered by the one that it has

    def extra(self, wanted: Wanted) -> dict[str, Any]:
        """What a request gets besides, so that the model answers that."""

    def running(self) -> int:
        """Calls that it works on."""


class _Forcing(ChatClient):
    """Adds what makes the model answer as wanted; `wanted` is of the calling thread."""

    def __init__(self, site: Site, *how: Any) -> None:
        super().__init__(*how)
        self._site = site
        self._here = threading.local()

    def want(self, wanted: Wanted) -> None:
        self._here.wanted = wanted

    def complete(self, request, **how):
        return super().complete({**request, "extra_body": self._site.extra(self._here.wanted)}, **how)


def opened(
    site: Site, *, name: str | None = None, key: SecretStr | None = None, policy: CallPolicy = POLICY
) -> OpenAIModel:
    key = key or site.key
    model = OpenAIModel(check_address(site.url, ()), name or site.name, site.counter, api_key=key, policy=policy)
    model.client = _Forcing(site, model.address.url, key, policy)
    return model


def ask(
    conversation: OpenAIConversation,
    wanted: Wanted,
    *messages: Any,
    seconds: float = 60.0,
    cancel: Event | None = None,
    most: int = 400,
) -> Completion:
    conversation.add(messages)
    conversation._model.client.want(wanted)
    sampling = Sampling(max_tokens=most)
    return conversation.complete(sampling, deadline=time.monotonic() + seconds, cancel=cancel or Event())


def results(completion: Completion) -> list[ToolMessage]:
    return [ToolMessage(tool_call_id=c.id, name=c.name, content="a.py\n") for c in completion.message.tool_calls]


def filler(counter: TokenCounter, tokens: int) -> UserMessage:
    """About so many tokens."""
    return UserMessage(content="hi " * int(tokens * 100 / counter.text("hi " * 100)))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come to that"
        time.sleep(0.01)  # a server tells what it works on only when asked


def dies(site: Site, kill: Callable[[], None]) -> None:
    """A server that ends in the middle of a call fails it for now: another worker, or this one later, may succeed."""
    policy = POLICY.model_copy(update={"retries": 1})
    with opened(site, policy=policy) as model, ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, model.open("", ()), Wanted(endless=True), USER, most=8000)
        until(lambda: site.running() == 1)
        kill()
        with pytest.raises(ModelUnavailable, match=r"no connection .*2 tries"):
            call.result(20)


class ModelServerContract:
    @pytest.fixture
    def model(self, site: Site):
        with opened(site) as model:
            yield model

    # --- answers --------------------------------------------------------------------------------------------------

    def test_a_plain_answer(self, site: Site, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, ())
        done = ask(conversation, DONE, USER)
        assert (done.message, done.finish_reason) == (AssistantMessage(content="Done."), "stop")
        assert done.usage.prompt > 0
        assert done.usage.completion > 0

    @pytest.mark.parametrize("streamed", [True, False])
    def test_a_call_and_its_result_in_a_second_turn(self, site: Site, model: OpenAIModel, *, streamed: bool) -> None:
        if not streamed:
            model.client.seen.refuses(field for field in FIELDS if field.name == "stream")
        conversation = model.open(SYSTEM, TOOLS)
        first = ask(conversation, Wanted(calls=1), USER)
        assert first.finish_reason == "tool_calls"
        assert first.message.raw is None
        assert [(call.name, call.arguments[:11]) for call in first.message.tool_calls] == [("bash", '{"command":')]
        second = ask(conversation, DONE, *results(first))
        assert (second.message.content, second.finish_reason) == ("Done.", "stop")
        assert second.usage.prompt > first.usage.prompt

    def test_several_calls_in_one_answer_and_again(self, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, TOOLS)
        first = ask(conversation, Wanted(calls=2), USER)
        second = ask(conversation, Wanted(calls=3), *results(first))
        ids = [call.id for one in (first, second) for call in one.message.tool_calls]
        assert all(len(one) == 9 and one.isascii() and one.isalnum() for one in ids), ids
        assert len(set(ids)) == 5
        assert ask(conversation, DONE, *results(second)).message.content == "Done."

    def test_an_answer_that_is_cut_off_by_its_limit(self, site: Site, model: OpenAIModel) -> None:
        done = ask(model.open(SYSTEM, ()), Wanted(endless=True), USER, most=5)
        assert done.finish_reason == "length"
        assert done.usage.completion == 5 or not site.tells_usage
        assert done.message.content

    def test_a_call_that_is_broken_off_is_kept_and_the_history_is_still_taken(self, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, TOOLS)
        broken = ask(conversation, Wanted(broken=True), USER)
        told = results(broken) or [UserMessage(content="That was no call.")]
        assert "comm" in "".join(call.arguments for call in broken.message.tool_calls) + (broken.message.raw or "")
        assert ask(conversation, DONE, *told).message.content == "Done."

    def test_an_answer_of_nothing_is_taken_back(self, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, ())
        conversation.add([USER])
        conversation.restore(AssistantMessage())
        assert ask(conversation, DONE, UserMessage(content="Say it.")).message.content == "Done."

    def test_a_conversation_that_is_restored_goes_on_as_the_one_before(self, model: OpenAIModel) -> None:
        conversation, again = model.open(SYSTEM, TOOLS), model.open(SYSTEM, TOOLS)
        first = ask(conversation, Wanted(calls=2), USER)
        second = ask(conversation, DONE, *results(first))
        again.add([USER])
        again.restore(first.message)
        repeated = ask(again, DONE, *results(first))
        assert repeated.message == second.message
        assert (again.tokens, repeated.usage.prompt) == (conversation.tokens, second.usage.prompt)

    # --- usage ----------------------------------------------------------------------------------------------------

    def test_the_server_counts_a_prompt_as_the_conversation_does(self, site: Site, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, TOOLS)
        conversation.add([USER])
        for wanted in (Wanted(calls=2), Wanted(calls=1), DONE):
            before = conversation.tokens
            done = ask(conversation, wanted)
            assert done.usage.prompt == before, wanted
            conversation.add(results(done))
        assert model.usage_missing is not site.tells_usage

    def test_what_was_cached_is_told_or_said_to_be_unknown(self, site: Site, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, TOOLS)
        first = ask(conversation, Wanted(calls=2), USER)
        usage = ask(conversation, DONE, *results(first)).usage
        if site.tells_cached:
            assert 0 < usage.cached <= usage.prompt
            assert usage.cache_untold == 0
        else:
            assert (usage.cached, usage.cache_untold) == (0, usage.prompt)
        said = "\n".join(model.lacking)
        assert ("cached tokens are not told" in said) is (site.tells_usage and not site.tells_cached)
        assert ("usage is not told" in said) is not site.tells_usage

    # --- the window -----------------------------------------------------------------------------------------------

    def test_the_window_is_what_the_list_of_models_says(self, site: Site, model: OpenAIModel) -> None:
        assert model.window == (site.window if site.tells_window else None)

    def test_an_answer_is_shortened_to_what_the_window_leaves(self, site: Site, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, ())
        done = ask(conversation, DONE, filler(site.counter, site.window - 400), most=site.window)
        assert (done.message.content, done.finish_reason) == ("Done.", "stop")
        assert model.window in {site.window, None}

    def test_a_prompt_that_is_too_long_ends_the_trajectory(self, site: Site, model: OpenAIModel) -> None:
        conversation = model.open(SYSTEM, ())
        ask(conversation, DONE, filler(site.counter, site.window // 4))
        if site.cuts:  # what it left out shows afterwards
            ask(conversation, DONE, filler(site.counter, site.window * 2 // 3))
            ask(conversation, DONE, filler(site.counter, site.window // 8))
        with pytest.raises(LimitsExceeded, match="context window: "):
            ask(conversation, DONE, filler(site.counter, site.window))
        assert ask(model.open(SYSTEM, ()), DONE, USER).message.content == "Done."

    # --- ends -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["cancel", "deadline"])
    def test_an_aborted_call_is_aborted_on_the_server(self, site: Site, model: OpenAIModel, how: str) -> None:
        conversation, cancel = model.open(SYSTEM, TOOLS), Event()
        conversation.add([USER])
        with ThreadPoolExecutor(1) as pool:
            for seconds in (60,) if how == "cancel" else (0.7, 3, 20):  # a busy machine may need more to begin
                call = pool.submit(ask, conversation, Wanted(endless=True), seconds=seconds, cancel=cancel, most=6000)
                until(lambda: site.running() == 1 or call.done())  # noqa: B023 - asked for in this turn alone
                if not call.done():
                    break
            if how == "cancel":
                cancel.set()
            aborted = call.result(25)
        until(lambda: site.running() == 0, seconds=2)
        assert aborted.finish_reason == "abort"
        assert aborted.message.tool_calls == ()
        assert aborted.usage.prompt == conversation.tokens
        assert ask(conversation, DONE).message.content == "Done."

    def test_a_call_that_is_late_before_it_starts_is_not_sent(self, model: OpenAIModel) -> None:
        done = ask(model.open(SYSTEM, ()), DONE, USER, seconds=-1)
        assert (done.finish_reason, done.usage) == ("abort", Usage())

    def test_an_unknown_model_is_refused(self, site: Site) -> None:
        with opened(site, name="no-such-model") as model:
            if site.any_name:
                assert ask(model.open(SYSTEM, ()), DONE, USER).message.content == "Done."
                return
            with pytest.raises(ModelRejected, match="no-such-model"):
                ask(model.open(SYSTEM, ()), DONE, USER)
            assert model.window is None

    def test_a_wrong_key_is_refused_and_not_repeated(self, site: Site) -> None:
        wrong = "sk-wrong-0123456789"
        with opened(site, key=SecretStr(wrong)) as model:
            if site.key is None:  # it asks for none
                assert ask(model.open(SYSTEM, ()), DONE, USER).message.content == "Done."
                return
            with pytest.raises(ModelRejected, match="401") as caught:
                ask(model.open(SYSTEM, ()), DONE, USER)
            assert wrong not in str(caught.value)

    def test_conversations_at_once_do_not_mix(self, site: Site, model: OpenAIModel) -> None:
        together = threading.Barrier(AT_ONCE)

        def one(number: int) -> tuple[int, ...]:
            conversation = model.open(SYSTEM, TOOLS)
            conversation.add([UserMessage(content="hi " * (1 + 10 * number))])
            told = []
            for wanted in (Wanted(calls=1 + number % 2), DONE):
                together.wait(30)
                before = conversation.tokens
                done = ask(conversation, wanted)
                assert len(done.message.tool_calls) == wanted.calls
                assert done.usage.prompt == before
                told.append(done.usage.prompt)
                conversation.add(results(done))
            return tuple(told)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            prompts = list(pool.map(one, range(AT_ONCE)))
        assert len({first for first, _ in prompts}) == AT_ONCE
