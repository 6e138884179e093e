"""Who we are on GitHub: an App with short-lived tokens narrowed to one repository, or a plain token."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from github import Auth, Github
from pydantic import SecretStr

from worker.adapters.forge.border import translated
from worker.adapters.forge.client import ClientOptions, connect
from worker.adapters.forge.passage import Passages
from worker.errors import SettingsError

_RENEW_BEFORE = timedelta(minutes=5)  # a push or a page of requests must not meet the end of its token
API_PERMISSIONS = {"contents": "read", "issues": "write", "metadata": "read", "pull_requests": "write"}
# A token of its own: asking for a permission that an installation did not grant refuses the whole token.
CHECKS_PERMISSIONS = {"checks": "write", "metadata": "read"}


def read_key(file: Path) -> str:
    """An App's private key as PEM; SettingsError when the file can't be read or holds none."""
    try:
        pem = file.read_text(encoding="ascii")
        serialization.load_pem_private_key(pem.encode(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"the GitHub App's private key {file} can't be used ({error}): "
            "set DEVSTRAL_FIX_GITHUB_APP_KEY_FILE=/path/to/key.pem"
        ) from error
    return pem


class Identity(Protocol):
    """Safe to use from several threads."""

    def login(self) -> str:
        """Under which name GitHub shows what we write."""

    def account(self, repository: str, installation_id: int | None) -> str:
        """Whose limits GitHub counts a request for `repository` against."""

    def api_auth(self, repository: str, installation_id: int | None) -> Auth.Auth: ...

    def checks_auth(self, repository: str, installation_id: int | None) -> Auth.Auth | None:
        """For check runs, which an App alone may write; None when there is none."""

    def git_token(
        self, repository: str, installation_id: int | None, access: Literal["read", "write"]
    ) -> SecretStr: ...

    def installed(self) -> Sequence[tuple[str, int]]:
        """Every repository an App is installed on, with the installation."""


class TokenIdentity:
    """A personal access token: as wide as its owner made it."""

    def __init__(self, token: SecretStr, options: ClientOptions, passages: Passages) -> None:
        if not token.get_secret_value().strip():
            raise SettingsError("the GitHub token is empty: set DEVSTRAL_FIX_GITHUB_TOKEN=github_pat_…")
        self._token = token
        self._options = options
        self._passages = passages
        digest = hashlib.sha256(token.get_secret_value().encode()).hexdigest()
        self._account = f"token:{digest[:12]}"  # its owner's name would have to be asked for
        self._login: str | None = None

    def login(self) -> str:
        if self._login is None:
            auth = Auth.Token(self._token.get_secret_value())
            client = connect(auth, self._options, self._passages.of(self._account))
            with translated("read the token's user"):
                self._login = client.get_user().login
            client.close()
        return self._login

    def account(self, repository: str, installation_id: int | None) -> str:  # noqa: ARG002
        return self._account

    def api_auth(self, repository: str, installation_id: int | None) -> Auth.Auth:  # noqa: ARG002
        return Auth.Token(self._token.get_secret_value())

    def checks_auth(self, repository: str, installation_id: int | None) -> Auth.Auth | None:  # noqa: ARG002
        return None

    def git_token(self, repository: str, installation_id: int | None, access: Literal["read", "write"]) -> SecretStr:  # noqa: ARG002
        return self._token

    def installed(self) -> Sequence[tuple[str, int]]:
        return ()  # what a person's token may see is not what they want looked after


@dataclass(frozen=True)
class _Kept:
    token: SecretStr
    expires: datetime
    since: float  # time.monotonic()

    def holds(self, refused: float) -> bool:
        """Not if one of its account was refused since: an uninstall, a suspension or a new key ends all of them."""
        return self.expires - _RENEW_BEFORE > datetime.now(UTC) and refused < self.since


class AppIdentity:
    """A GitHub App. SettingsError when its key can't be read. Tokens live in memory only, until shortly before
    they expire (GitHub gives them an hour)."""

    def __init__(self, app_id: int, private_key: Path, options: ClientOptions, passages: Passages) -> None:
        self._app = Auth.AppAuth(app_id, read_key(private_key))
        self._options = options
        self._passages = passages
        self._passage = passages.of(f"app:{app_id}")
        self._lock = threading.Lock()
        self._login: str | None = None
        self._installations: dict[str, int] = {}
        self._tokens: dict[tuple[int, str, tuple[tuple[str, str], ...]], _Kept] = {}

    def login(self) -> str:
        if self._login is None:
            (slug,) = self._ask("read the App", "GET", "/app", ("slug",))
            self._login = f"{slug}[bot]"
        return self._login

    def account(self, repository: str, installation_id: int | None) -> str:
        return f"installation:{self._installation(repository) if installation_id is None else installation_id}"

    def api_auth(self, repository: str, installation_id: int | None) -> Auth.Auth:
        return _Renewed(lambda: self._token(repository, installation_id, API_PERMISSIONS))

    def checks_auth(self, repository: str, installation_id: int | None) -> Auth.Auth | None:
        return _Renewed(lambda: self._token(repository, installation_id, CHECKS_PERMISSIONS))

    def git_token(self, repository: str, installation_id: int | None, access: Literal["read", "write"]) -> SecretStr:
        return self._token(repository, installation_id, {"contents": access, "metadata": "read"})

    def installed(self) -> Sequence[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        with (
            closing(connect(self._app, self._options, self._passage)) as client,
            translated("list the App's installations"),
        ):
            for installation in _pages(client, "/app/installations"):
                if installation.get("suspended_at") is None:
                    found += self._repositories_of(client, int(installation["id"]))
        return found

    def _repositories_of(self, client: Github, installation: int) -> list[tuple[str, int]]:
        path = f"/app/installations/{installation}/access_tokens"
        _, data = client.requester.requestJsonAndCheck("POST", path, input={"permissions": {"metadata": "read"}})
        passage = self._passages.of(f"installation:{installation}")
        with closing(connect(Auth.Token(data["token"]), self._options, passage)) as inside:
            listed = _pages(inside, "/installation/repositories", key="repositories")
            return [(one["full_name"], installation) for one in listed if not one.get("archived")]

    def _token(self, repository: str, installation_id: int | None, permissions: Mapping[str, str]) -> SecretStr:
        installation = self._installation(repository) if installation_id is None else installation_id
        key = (installation, repository.lower(), tuple(sorted(permissions.items())))
        with self._lock:
            kept = self._tokens.get(key)
        if kept is not None and kept.holds(self._passages.refused.get(f"installation:{installation}", 0.0)):
            return kept.token
        # Outside the lock: two threads may both get one, which costs a request and breaks nothing.
        wanted = {"repositories": [repository.partition("/")[2]], "permissions": dict(permissions)}
        path, what = f"/app/installations/{installation}/access_tokens", f"get an App token for {repository}"
        value, until = self._ask(what, "POST", path, ("token", "expires_at"), wanted)
        kept = _Kept(SecretStr(value), datetime.fromisoformat(until), time.monotonic())
        with self._lock:
            self._tokens[key] = kept
        return kept.token

    def _installation(self, repository: str) -> int:
        if repository.lower() not in self._installations:
            what = f"find the App's installation on {repository}"
            (found,) = self._ask(what, "GET", f"/repos/{repository}/installation", ("id",))
            self._installations[repository.lower()] = int(found)
        return self._installations[repository.lower()]

    def _ask(self, what: str, method: str, path: str, fields: tuple[str, ...], value: object = None) -> tuple[str, ...]:
        """The `fields` of the answer to a request made as the App itself."""
        client = connect(self._app, self._options, self._passage)
        try:
            with translated(what):
                # Raw, since PyGithub can't narrow a token to repositories.
                _, data = client.requester.requestJsonAndCheck(method, path, input=value)
                return tuple(str(data[field]) for field in fields)
        finally:
            client.close()


def _pages(client: Github, path: str, *, key: str | None = None) -> Iterator[dict[str, Any]]:
    page = 1
    while True:
        _, data = client.requester.requestJsonAndCheck("GET", f"{path}?per_page=100&page={page}")
        rows = data if key is None else data[key]
        yield from rows
        if len(rows) < 100:
            return
        page += 1


class _Renewed(Auth.Auth):
    """A token asked for at every request, so that a long-lived client never holds an expired one."""

    def __init__(self, current: Callable[[], SecretStr]) -> None:
        self._current = current

    @property
    def token_type(self) -> str:
        return "token"

    @property
    def token(self) -> str:
        return self._current().get_secret_value()

    @property
    def _masked_token(self) -> str:
        return "token (App token removed)"
