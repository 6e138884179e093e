"""One chat-completions call: sent on an event loop of its own, so that a cancel or a deadline ends it at once.

A blocking socket read can't be interrupted from another thread; a task can. So each model has one thread with one
event loop, shared by all its conversations, and a caller waits for its own call only. The service stays synchronous.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import random
import ssl
import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYet
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

import httpx2
import openai
from pydantic import SecretStr

from agent.types import Frozen
from worker.adapters.models import dialects
from worker.adapters.models.openai_answer import Answer, BrokenAnswer
from worker.adapters.models.openai_seen import Seen
from worker.errors import ModelRejected, ModelUnavailable

_RETRIED = frozenset({408, 409, 429})
_REFUSALS = frozenset({400, 404, 405, 415, 422, 501})  # of a request as it is
_CARD_SECONDS = 5.0  # for a server's list of models
_TICK = 0.05  # seconds between looks at `cancel` while a call is in flight
_SHOWN = 600  # characters of a server's message


class CallPolicy(Frozen):
    """Seconds, and how often a failed call is repeated."""

    connect_seconds: float = 10.0
    read_seconds: float = 300.0  # between two pieces of an answer; the first piece may wait in the server's queue
    retries: int = 3
    backoff_seconds: float = 0.5  # doubled each time, with jitter
    longest_wait_seconds: float = 30.0  # also for a Retry-After


class Aborted(Exception):
    """`cancel` was set or the deadline passed; `answer` is what had arrived, None when nothing was sent."""

    def __init__(self, answer: Answer | None) -> None:
        super().__init__()
        self.answer = answer


class TooLong(ModelRejected):
    """The server says that the prompt, or the prompt and the answer asked for, is longer than its window."""


class _Otherwise(Exception):
    """The server refused the request's form, not the request: now it is known how it takes it."""


class _Again(Exception):
    """Worth another try after `wait` seconds, if any is left."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class ChatClient:
    """Calls one server. Safe for threads; the connection pool and its thread start with the first call."""

    def __init__(self, url: str, api_key: SecretStr | None, policy: CallPolicy) -> None:
        self._url = url
        self._key = api_key
        self._policy = policy
        self.seen = Seen()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._closed = False

    def complete(self, request: dict[str, Any], *, deadline: float, cancel: Event) -> Answer:
        """Send `request` and return the whole answer.

        Raises Aborted; ModelUnavailable when the server can't be reached, breaks off, or is busy or failing after
        the retries; TooLong, or another ModelRejected, with the server's own words when it refuses the request.
        """
        asked = {**request, "stream": True, "stream_options": {"include_usage": True}}
        answer: Answer | None = None
        failures = 0
        while not cancel.is_set() and time.monotonic() < deadline:
            answer = Answer()
            try:
                self._attempt(self.seen.request(asked), answer, deadline=deadline, cancel=cancel)
            except _Otherwise:  # each field once: it ends
                continue
            except _Again as failure:
                failures += 1
                if failures > self._policy.retries:
                    tries = f"{failures} tries" if failures > 1 else "1 try"
                    raise ModelUnavailable(f"model server {self._url}: {failure} ({tries})") from failure.__cause__
                cancel.wait(min(self._wait(failures, failure.wait), max(0.0, deadline - time.monotonic())))
            else:
                self.seen.answered(answer.usage)
                return answer
        raise Aborted(answer)

    def look(self, name: str) -> None:
        """Ask the server's list of models about this one. One that has no list, or does not answer in time, tells
        nothing; ModelUnavailable when nobody is there after the retries."""
        for failures in range(1, self._policy.retries + 2):
            loop, client = self._start()
            future = asyncio.run_coroutine_threadsafe(_models(client), loop)
            try:
                self.seen.listed(dialects.card(json.loads(future.result(2 * _CARD_SECONDS)), name))
            except (openai.APIStatusError, ValueError, RecursionError, NotYet, CancelledError):
                future.cancel()
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                if isinstance(cause, httpx2.TimeoutException) and not isinstance(cause, httpx2.ConnectTimeout):
                    return
                if failures > self._policy.retries:
                    reason = f"no connection ({self._shorten(str(cause))})"
                    raise ModelUnavailable(f"model server {self._url}: {reason}") from error
                time.sleep(self._wait(failures, None))
                continue
            return

    def close(self) -> None:
        """End the connections and the thread; calls in flight fail. More calls raise ModelUnavailable."""
        with self._lock:
            self._closed = True
            loop, thread, client = self._loop, self._thread, self._client
            self._loop = self._thread = self._client = None
        if loop is None or thread is None or client is None:
            return
        asyncio.run_coroutine_threadsafe(_shut_down(client), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()

    def _attempt(self, request: dict[str, Any], answer: Answer, *, deadline: float, cancel: Event) -> None:
        loop, client = self._start()
        future = asyncio.run_coroutine_threadsafe(_send(client, request, answer), loop)
        try:
            _wait_for(future, deadline=deadline, cancel=cancel)
        except Aborted:
            raise Aborted(answer) from None
        except CancelledError:
            raise ModelUnavailable(f"model server {self._url}: the connection was closed on our side") from None
        except BrokenAnswer as error:
            self._check_length(str(error))
            if error.status is not None and 400 <= error.status < 500 and error.status not in _RETRIED:
                raise ModelRejected(self._words(str(error))) from error
            raise _Again(self._shorten(str(error))) from error
        except openai.APIStatusError as error:
            self._translate(error, request)
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            cause = error.__cause__ or error
            if isinstance(cause, httpx2.ConnectTimeout):
                raise _Again(f"no connection within {self._policy.connect_seconds:g} s") from error
            # The server may still be working on it: asking again would only add to its load.
            reason = f"no answer within {self._policy.read_seconds:g} s"
            raise ModelUnavailable(f"model server {self._url}: {reason}") from error
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            raise _Again(f"no connection ({self._shorten(str(error.__cause__ or error))})") from error

    def _start(self) -> tuple[asyncio.AbstractEventLoop, openai.AsyncOpenAI]:
        with self._lock:
            if self._closed:
                raise ModelUnavailable(f"model server {self._url}: the connection was closed on our side")
            if self._loop is None or self._client is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="model-server", daemon=True)
                self._thread.start()
                self._client = self._connect()
            return self._loop, self._client

    def _connect(self) -> openai.AsyncOpenAI:
        policy = self._policy
        timeout = httpx2.Timeout(policy.read_seconds, connect=policy.connect_seconds)
        client = openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key.get_secret_value() if self._key else "none",
            timeout=timeout,
            max_retries=0,  # the client's own sleep through a cancel
            http_client=openai.DefaultAsyncHttpxClient(
                # No proxy from the environment and no redirect: the code goes to the checked address or nowhere.
                trust_env=False,
                follow_redirects=False,
                verify=_trusted(),
                timeout=timeout,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            ),
        )
        # The client fills these from OPENAI_* in the environment; no server but OpenAI's own should be told.
        client.organization = client.project = client.admin_api_key = None
        return client

    def _translate(self, error: openai.APIStatusError, request: dict[str, Any]) -> None:
        status, words = error.status_code, dialects.words(error.body) or error.message
        self._check_length(words)
        if status in _REFUSALS:
            fields = [field for field in dialects.unwanted(error.body, words) if field.name in request]
            if fields:
                self.seen.refuses(fields)
                raise _Otherwise from error
        if status in _RETRIED or status >= 500:
            raise _Again(f"HTTP {status}: {self._shorten(words)}", wait=_retry_after(error.response)) from error
        if 300 <= status < 400:
            words = f"a redirect to {error.response.headers.get('location')}, which is not followed"
        raise ModelRejected(f"{self._words(words)} (HTTP {status})") from error

    def _check_length(self, words: str) -> None:
        """TooLong, and the window is known from now on, where that is what these words say."""
        window = dialects.too_long(words)
        if window is None:
            return
        if window:
            self.seen.window_is(window)
        raise TooLong(self._words(words))

    def _wait(self, failures: int, asked: float | None) -> float:
        longest = self._policy.longest_wait_seconds
        if asked is not None:
            return min(asked, longest)
        backoff = self._policy.backoff_seconds * float(2 ** (failures - 1))
        return min(longest, backoff * random.uniform(0.5, 1.5))  # noqa: S311  # spreads callers, guards nothing

    def _words(self, text: str) -> str:
        return f"model server {self._url} refused the request: {self._shorten(text)}"

    def _shorten(self, text: str) -> str:
        """A server's words for a message: bounded, and without our key should it repeat it."""
        if self._key and (key := self._key.get_secret_value()):
            text = text.replace(key, "***")
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The system's certificate authorities, or those of SSL_CERT_FILE, read once (30 ms)."""
    return ssl.create_default_context()


def _wait_for(future: Future[None], *, deadline: float, cancel: Event) -> None:
    """The future's end; on `cancel` or past `deadline` its task is cancelled, which closes the connection."""
    while True:
        try:
            return future.result(timeout=min(_TICK, max(0.0, deadline - time.monotonic())))
        except NotYet:
            if future.done():  # it ended just now
                return future.result()
            if cancel.is_set() or time.monotonic() >= deadline:
                future.cancel()
                raise Aborted(None) from None


async def _models(client: openai.AsyncOpenAI) -> str:
    response = await client.models.with_raw_response.list(timeout=_CARD_SECONDS)
    return response.http_response.text


async def _send(client: openai.AsyncOpenAI, request: dict[str, Any], answer: Answer) -> None:
    async with client.chat.completions.with_streaming_response.create(**request) as response:
        if "text/event-stream" not in response.headers.get("content-type", ""):
            answer.body(await response.read())
            answer.done = True
            return
        # Lines end with a newline byte only: a line-splitting of text would also cut at U+2028 inside a string.
        held = b""
        async for piece in response.iter_bytes():
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                answer.event(line)
    answer.event(held)
    if not answer.complete:
        raise BrokenAnswer("the answer broke off")


async def _shut_down(client: openai.AsyncOpenAI) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.close()


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, from a number or a date; None when there is no usable one."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)
