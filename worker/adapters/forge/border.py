"""The border: what PyGithub and requests raise becomes ForgeUnavailable or ForgeRefused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from github import BadAttributeException, GithubException, RateLimitExceededException
from github.GithubException import RateLimitExceededExceedsMaxWait

from worker.adapters.forge.gate import GateShut
from worker.errors import ForgeRefused, ForgeUnavailable

SECONDARY_WAIT = 60.0  # GitHub's advice where a limit names no time
UNAUTHORIZED_WAIT = 30.0


@contextmanager
def translated(what: str) -> Iterator[None]:
    """`what` names the operation in the error's message; no message holds a token."""
    try:
        yield
    except GithubException as error:
        raise _translate(what, error) from error
    except GateShut as shut:
        raise ForgeUnavailable(f"{what}: {shut}", retry_after=shut.retry_after) from shut
    except requests.RequestException as error:  # also RetryError: the retries of a GET are used up
        raise ForgeUnavailable(f"{what}: GitHub can't be reached ({type(error).__name__})") from error
    except AssertionError as error:
        # PyGithub asserts that every address it follows has the host, port and path of its base address.
        raise ForgeRefused(f"{what}: an answer points to another server than the API address set ({error})") from error
    except (BadAttributeException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ForgeUnavailable(f"{what}: the answer is not what GitHub sends ({type(error).__name__})") from error


def _translate(what: str, error: GithubException) -> ForgeUnavailable | ForgeRefused:
    message = f"{what}: {error.status} {_said(error.data)}".strip()
    headers = {name.lower(): str(value) for name, value in (error.headers or {}).items()}
    if isinstance(error, RateLimitExceededExceedsMaxWait):
        return ForgeUnavailable(message, retry_after=error.wait)
    limited = (
        isinstance(error, RateLimitExceededException)
        or error.status == 429
        or (error.status == 403 and ("retry-after" in headers or headers.get("x-ratelimit-remaining") == "0"))
    )
    if limited:
        return ForgeUnavailable(message, retry_after=wait_asked_for(headers) or SECONDARY_WAIT)
    if error.status == 401:  # a revoked token is no fault of the run: the next try asks for another
        return ForgeUnavailable(message, retry_after=UNAUTHORIZED_WAIT)
    if error.status >= 500 or error.status < 400:
        return ForgeUnavailable(message, retry_after=wait_asked_for(headers))
    return ForgeRefused(message)


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds until another try, from Retry-After or a used-up primary limit; names in lower case."""
    after = headers.get("retry-after", "")
    if after.isdigit():
        return float(after)
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(1.0, int(reset) - time.time() + 1.0)
    return None


def _said(data: Any) -> str:
    """GitHub's own words, short."""
    if not isinstance(data, Mapping):
        return ""
    parts = [str(data.get("message", ""))]
    errors = data.get("errors")
    for entry in errors if isinstance(errors, list) else []:
        if isinstance(entry, Mapping):
            named = " ".join(str(entry[key]) for key in ("field", "code") if key in entry)
            parts.append(str(entry.get("message") or named))
        else:
            parts.append(str(entry))
    return "; ".join(part for part in parts if part)[:300]
