"""What a GitHub App can say and change of itself: its permissions, installations and webhook; and how one is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from github import Auth
from pydantic import SecretStr

from agent.types import Frozen
from worker.adapters.forge.auth import read_key
from worker.adapters.forge.border import translated
from worker.adapters.forge.client import ClientOptions, connect
from worker.adapters.forge.passage import Passages
from worker.errors import ForgeRefused

MOST = 100  # of what is listed: one page


class AppInfo(Frozen):
    slug: str
    html_url: str
    permissions: Mapping[str, str]
    events: tuple[str, ...]


class Installation(Frozen):
    """Where the App is installed. `permissions` are those that its owner accepted."""

    id: int
    account: str
    suspended: bool
    permissions: Mapping[str, str]


class Hook(Frozen):
    """The App's webhook, as GitHub has it. GitHub never tells the secret, only whether there is one."""

    url: str
    content_type: str
    insecure_ssl: bool
    has_secret: bool


class HookDelivery(Frozen):
    id: int
    event: str
    status_code: int  #: of our answer; 0: there was none
    status: str


class Registered(Frozen):
    """A new App's credentials: GitHub shows them this once."""

    app_id: int
    slug: str
    html_url: str
    private_key: SecretStr
    webhook_secret: SecretStr


class AppAdmin:
    """Asks as the App itself. ForgeRefused when the key is not one of its keys; for one thread."""

    def __init__(
        self, app_id: int, private_key: Path, options: ClientOptions, passages: Passages | None = None
    ) -> None:
        """SettingsError when the key can't be read."""
        passage = (passages or Passages()).of(f"app:{app_id}")
        self._client = connect(Auth.AppAuth(app_id, read_key(private_key)), options, passage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def app(self) -> AppInfo:
        with translated("read the App"):
            data = self._ask("GET", "/app")
            return AppInfo(
                slug=data["slug"],
                html_url=data["html_url"],
                permissions=data.get("permissions") or {},
                events=tuple(data.get("events") or ()),
            )

    def installations(self) -> tuple[Installation, ...]:
        """At most 100."""
        with translated("list the App's installations"):
            return tuple(
                Installation(
                    id=one["id"],
                    account=(one.get("account") or {}).get("login", "?"),
                    suspended=one.get("suspended_at") is not None,
                    permissions=one.get("permissions") or {},
                )
                for one in self._ask("GET", f"/app/installations?per_page={MOST}")
            )

    def hook(self) -> Hook:
        with translated("read the App's webhook"):
            data = self._ask("GET", "/app/hook/config")
            return Hook(
                url=data.get("url") or "",
                content_type=data.get("content_type") or "form",
                insecure_ssl=str(data.get("insecure_ssl", "0")) != "0",
                has_secret=bool(data.get("secret")),
            )

    def set_secret(self, secret: SecretStr) -> None:
        with translated("change the App's webhook secret"):
            self._ask("PATCH", "/app/hook/config", {"secret": secret.get_secret_value()})

    def deliveries(self) -> tuple[HookDelivery, ...]:
        """The newest first, at most 100."""
        with translated("list the webhook's deliveries"):
            return tuple(
                HookDelivery(
                    id=one["id"],
                    event=one.get("event", "?"),
                    status_code=one.get("status_code") or 0,
                    status=one.get("status") or "",
                )
                for one in self._ask("GET", f"/app/hook/deliveries?per_page={MOST}")
            )

    def redeliver(self, delivery_id: int) -> None:
        """Ask GitHub to send it once more; that it was sent is all that the answer says."""
        with translated(f"have delivery {delivery_id} sent again"):
            self._ask("POST", f"/app/hook/deliveries/{delivery_id}/attempts")

    def _ask(self, method: str, path: str, value: object = None) -> Any:
        _, data = self._client.requester.requestJsonAndCheck(method, path, input=value)
        return data


def convert(code: str, options: ClientOptions, passages: Passages | None = None) -> Registered:
    """The App that a person just registered from a manifest, for the code that GitHub sent them back with: it can be
    used once, within an hour. The endpoint asks for no authentication."""
    client = connect(None, options, (passages or Passages()).of("nobody"))
    try:
        with translated("turn the code into an App"):
            _, data = client.requester.requestJsonAndCheck("POST", f"/app-manifests/{code}/conversions")
            return Registered(
                app_id=data["id"],
                slug=data["slug"],
                html_url=data["html_url"],
                private_key=SecretStr(data["pem"]),
                webhook_secret=SecretStr(data["webhook_secret"]),
            )
    finally:
        client.close()


class TokenInfo(Frozen):
    """Of a personal access token. `scopes` is None where GitHub names none: a fine-grained token tells nobody what it
    may."""

    login: str
    scopes: tuple[str, ...] | None


def token_info(token: SecretStr, options: ClientOptions, passages: Passages | None = None) -> TokenInfo:
    client = connect(Auth.Token(token.get_secret_value()), options, (passages or Passages()).of("token:setup"))
    try:
        with translated("read the token's user"):
            headers, data = client.requester.requestJsonAndCheck("GET", "/user")
            named = headers.get("x-oauth-scopes")
            scopes = None if named is None else tuple(part.strip() for part in named.split(",") if part.strip())
            return TokenInfo(login=data["login"], scopes=scopes)
    finally:
        client.close()


class TokenReach(Frozen):
    """What a token may do in one repository, as far as reading tells."""

    push: bool
    issues: str  #: empty: can be read; else why not
    pull_requests: str


def token_reach(
    token: SecretStr, repository: str, options: ClientOptions, passages: Passages | None = None
) -> TokenReach:
    """By reading alone. ForgeRefused when the repository can't be seen."""
    client = connect(Auth.Token(token.get_secret_value()), options, (passages or Passages()).of("token:setup"))

    def reads(what: str) -> str:
        try:
            with translated(f"list the {what} of {repository}"):
                client.requester.requestJsonAndCheck("GET", f"/repos/{repository}/{what}?per_page=1")
        except ForgeRefused as refused:
            return str(refused)
        return ""

    try:
        with translated(f"read {repository}"):
            _, data = client.requester.requestJsonAndCheck("GET", f"/repos/{repository}")
            push = bool((data.get("permissions") or {}).get("push"))
        return TokenReach(push=push, issues=reads("issues"), pull_requests=reads("pulls"))
    finally:
        client.close()
