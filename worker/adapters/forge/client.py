"""PyGithub clients with our rules: only reads are retried, no wait is longer than the cap, and all pass the gate."""

from __future__ import annotations

import functools
import urllib.parse
from typing import Any, Self

from github import Auth, Consts, Github, GithubRetry
from github.GithubException import GithubException, RateLimitExceededExceedsMaxWait
from github.Requester import HTTPRequestsConnectionClass, HTTPSRequestsConnectionClass, Requester
from pydantic import Field

from agent.types import Frozen
from worker.adapters.forge.border import wait_asked_for
from worker.adapters.forge.gate import GateShut
from worker.adapters.forge.passage import GatedAdapter, Passage


class ClientOptions(Frozen):
    """How to talk to GitHub. Times are seconds."""

    api_url: str = Field(default=Consts.DEFAULT_BASE_URL, description="GitHub Enterprise: https://HOST/api/v3")
    git_base_url: str | None = Field(
        default=None, description="replaces the API's clone address: <base>/owner/name.git"
    )
    seconds_between_requests: float | None = Field(default=None, ge=0, description="None: as GitHub advises")
    seconds_between_writes: float | None = Field(default=None, ge=0, description="None: as GitHub advises")
    timeout: int = Field(default=15, gt=0)
    max_wait: float = Field(default=10.0, ge=0, description="a longer wait becomes ForgeUnavailable(retry_after)")
    retries: int = Field(default=3, ge=0, description="of reads; a write is never repeated")
    retry_backoff: float = Field(default=0.5, ge=0, description="doubles from the second retry on")

    def pace(self) -> tuple[float, float]:
        """Seconds between requests and between writes; a server on loopback has no limits to respect."""
        host = urllib.parse.urlsplit(self.api_url).hostname or ""
        local = host == "localhost" or host.startswith("127.") or host == "::1"
        requests, writes = self.seconds_between_requests, self.seconds_between_writes
        return (
            (0.0 if local else Consts.DEFAULT_SECONDS_BETWEEN_REQUESTS) if requests is None else requests,
            (0.0 if local else Consts.DEFAULT_SECONDS_BETWEEN_WRITES) if writes is None else writes,
        )


class GatedRetry(GithubRetry):
    """Also caps Retry-After, which GithubRetry sleeps however long it is, and lets repeats pass the gate, too."""

    def __init__(self, *, passage: Passage, **named: Any) -> None:
        self.passage = passage
        super().__init__(**named)

    def new(self, **named: Any) -> Self:
        return super().new(passage=self.passage, **named)

    def increment(
        self, method: str | None = None, url: str | None = None, response: Any = None, *rest: Any, **named: Any
    ) -> Any:
        method, url = method or "GET", url or "/"
        try:
            if response is not None:
                self._heed(method, url, response)
            again = super().increment(method, url, response, *rest, **named)
            self.passage.enter(method, url)
        except (GithubException, GateShut) as refused:
            if isinstance(refused, RateLimitExceededExceedsMaxWait):
                self.passage.limited(refused.wait or 0.0)
            if response is not None:
                response.drain_conn()  # else its connection is lost
            raise
        return again

    def _heed(self, method: str, url: str, response: Any) -> None:
        headers = {name.lower(): str(value) for name, value in response.headers.items()}
        self.passage.answered(method, url, response.status, headers)
        wait = wait_asked_for({"retry-after": headers.get("retry-after", "")})
        if wait is not None and self.max_rate_limit_wait is not None and wait > self.max_rate_limit_wait:
            message = {"message": "asked to wait longer than we do"}
            raise RateLimitExceededExceedsMaxWait(response.status, message, dict(response.headers), wait=wait)


class _Gated:
    """A connection of PyGithub's whose session asks through our adapter, where it belongs to a client of ours."""

    retry: Any
    pool_size: int
    protocol: str
    session: Any
    adapter: Any

    def pass_the_gate(self) -> None:
        if isinstance(self.retry, GatedRetry):
            self.adapter = GatedAdapter(
                self.retry.passage,
                max_retries=self.retry,
                pool_connections=self.pool_size,
                pool_maxsize=self.pool_size,
            )
            self.session.mount(f"{self.protocol}://", self.adapter)


class _GatedHttp(_Gated, HTTPRequestsConnectionClass):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pass_the_gate()


class _GatedHttps(_Gated, HTTPSRequestsConnectionClass):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pass_the_gate()


@functools.cache
def _inject() -> None:
    """For all clients of the process; PyGithub offers no way for one. It takes injected classes for those of tests and
    gives up keeping connections open, which is undone."""
    Requester.injectConnectionClasses(_GatedHttp, _GatedHttps)
    Requester._Requester__persist = True  # type: ignore[attr-defined]  # noqa: SLF001


def connect(auth: Auth.Auth | None, options: ClientOptions, passage: Passage) -> Github:
    """A client for one thread. Its objects are lazy: nothing is fetched until an attribute is read."""
    _inject()
    retry = GatedRetry(
        passage=passage,
        total=options.retries,
        allowed_methods={"GET"},
        status_forcelist=[429, *range(500, 600)],
        respect_retry_after_header=False,  # the gate waits, once and for everybody
        backoff_factor=options.retry_backoff,
        max_rate_limit_wait=options.max_wait,
    )
    between_requests, between_writes = options.pace()
    return Github(
        auth=auth,
        base_url=options.api_url,
        timeout=options.timeout,
        retry=retry,
        per_page=100,
        seconds_between_requests=between_requests,
        seconds_between_writes=between_writes,
        lazy=True,
    )
