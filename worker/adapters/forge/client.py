"""PyGithub clients with our rules: only reads are retried, and no wait is longer than the cap."""

from __future__ import annotations

import urllib.parse
from typing import Any

from github import Auth, Consts, Github, GithubRetry
from github.GithubException import RateLimitExceededExceedsMaxWait
from pydantic import Field

from agent.types import Frozen
from worker.adapters.forge.border import wait_asked_for


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


class CappedRetry(GithubRetry):
    """Also caps Retry-After, which GithubRetry sleeps however long it is."""

    def increment(
        self, method: str | None = None, url: str | None = None, response: Any = None, *rest: Any, **named: Any
    ) -> Any:
        if response is not None and self.max_rate_limit_wait is not None:
            wait = wait_asked_for({"retry-after": response.headers.get("Retry-After", "")})
            if wait is not None and wait > self.max_rate_limit_wait:
                response.drain_conn()
                message = {"message": "asked to wait longer than we do"}
                raise RateLimitExceededExceedsMaxWait(response.status, message, dict(response.headers), wait=wait)
        return super().increment(method, url, response, *rest, **named)


def connect(auth: Auth.Auth, options: ClientOptions) -> Github:
    """A client for one thread. Its objects are lazy: nothing is fetched until an attribute is read."""
    retry = CappedRetry(
        total=options.retries,
        allowed_methods={"GET"},
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
