"""Whether GitHub and this service fit together: read from GitHub and tried on ourselves; nothing is changed."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
from pydantic import SecretStr

from worker.adapters.forge import ClientOptions
from worker.adapters.forge.app import AppAdmin, AppInfo, Installation, token_info, token_reach
from worker.adapters.forge.needs import lacking, unheard
from worker.connecting.registration import hook_url, web_url
from worker.doctor import Finding, Status
from worker.errors import ForgeRefused, ForgeUnavailable, ServiceError, SettingsError
from worker.settings import Settings

SECONDS = 10.0
ACCOUNT = "github account"
CLASSIC_SCOPES = frozenset({"repo", "public_repo"})
PING = {"zen": "Signed by the service itself.", "hook_id": 0, "hook": {"type": "App"}}


def findings(settings: Settings, repositories: Sequence[str] = ()) -> Iterator[Finding]:
    """What was found, in the order in which it matters. `repositories` are looked at with a token, one by one."""
    options = ClientOptions(api_url=settings.github_url, timeout=5, retries=0, max_wait=0)
    try:
        if settings.github_app_id is not None:
            yield from _of_app(settings, settings.github_app_id, options)
        elif settings.github_token is not None:
            yield from _of_token(settings.github_token, repositories, options)
        else:
            yield Finding(ACCOUNT, Status.WARN, "not configured", "devstral-fix github setup")
            return
    except SettingsError as error:
        yield Finding(ACCOUNT, Status.MISSING, str(error), "mend the setting, or run devstral-fix github setup --force")
    except ForgeUnavailable as error:
        if " 401 " in str(error):
            yield Finding(ACCOUNT, Status.MISSING, str(error), _unauthorized(settings))
        else:
            yield Finding(
                ACCOUNT, Status.WARN, str(error), f"see that {options.api_url} is reachable from this machine"
            )
    except ForgeRefused as error:
        yield Finding(ACCOUNT, Status.MISSING, str(error), "see what GitHub says")
    yield from delivered_to_itself(settings)


def _unauthorized(settings: Settings) -> str:
    if settings.github_app_id is not None:
        return "the key is none of this App's, or the clock is wrong: see DEVSTRAL_FIX_GITHUB_APP_ID, its key file"
    return "the token is wrong, expired or revoked: make a new one and set DEVSTRAL_FIX_GITHUB_TOKEN"


def _of_app(settings: Settings, app_id: int, options: ClientOptions) -> Iterator[Finding]:
    if settings.github_app_key_file is None:
        yield Finding(ACCOUNT, Status.MISSING, "an App without a key file", "set DEVSTRAL_FIX_GITHUB_APP_KEY_FILE")
        return
    with AppAdmin(app_id, Path(settings.github_app_key_file), options) as admin:
        app = admin.app()
        yield Finding(ACCOUNT, Status.OK, f"App {app.slug} ({app_id}), its key works")
        yield from permissions(app)
        yield from events(app)
        yield from installations(app, admin.installations())
        yield from hook(settings, admin)


def permissions(app: AppInfo) -> Iterator[Finding]:
    missing = lacking(app.permissions)
    if not missing:
        yield Finding("permissions", Status.OK, "all that are needed")
    for needed in missing:
        detail = f"{needed.name}: {needed.level} is not granted; it is for: {needed.why}"
        if needed.without:
            detail += f"; without it {needed.without}"
        mend = f"grant it in the App's settings ({app.html_url}), and accept it at each installation"
        yield Finding("permissions", Status.WARN if needed.without else Status.MISSING, detail, mend)


def events(app: AppInfo) -> Iterator[Finding]:
    missing = unheard(app.events)
    if not missing:
        yield Finding("events", Status.OK, "all that are needed")
    for needed in missing:
        detail = f"{needed.name} is not subscribed to; it is for: {needed.why}"
        if needed.without:
            detail += f"; without it {needed.without}"
        mend = f"subscribe to it in the App's settings ({app.html_url})"
        yield Finding("events", Status.WARN if needed.without else Status.MISSING, detail, mend)


def installations(app: AppInfo, found: Sequence[Installation]) -> Iterator[Finding]:
    if not found:
        yield Finding(
            "installations", Status.WARN, "installed nowhere", f"install it: {app.html_url}/installations/new"
        )
        return
    yield Finding("installations", Status.OK, ", ".join(sorted(one.account for one in found)))
    for one in found:
        behind = [needed.name for needed in lacking(one.permissions) if needed.granted(app.permissions)]
        if one.suspended:
            yield Finding("installations", Status.WARN, f"{one.account}: suspended", "its owner can unsuspend it")
        elif behind:
            detail = f"{one.account} has not accepted: {', '.join(behind)}"
            yield Finding("installations", Status.WARN, detail, "its owner accepts them at the installation")


def hook(settings: Settings, admin: AppAdmin) -> Iterator[Finding]:
    """What GitHub sends where, as it has it."""
    there = admin.hook()
    wanted = None if settings.public_url is None else hook_url(settings.public_url)
    at = "mend it with the App's webhook form"
    if wanted is not None and there.url != wanted:
        yield Finding("webhook", Status.MISSING, f"GitHub sends events to {there.url or 'nobody'}, not {wanted}", at)
    elif not there.url:
        yield Finding("webhook", Status.MISSING, "GitHub sends events to nobody", at)
    elif there.content_type != "json":
        yield Finding("webhook", Status.MISSING, f"its content type is {there.content_type}; json is needed", at)
    elif not there.has_secret:
        yield Finding("webhook", Status.MISSING, "it has no secret", "devstral-fix github rotate-secret")
    elif there.insecure_ssl:
        yield Finding("webhook", Status.WARN, "GitHub does not check the certificate of this service", at)
    else:
        yield Finding("webhook", Status.OK, there.url)
    newest = admin.deliveries()
    failed = [one for one in newest if not 200 <= one.status_code < 300]
    if failed:
        detail = f"{len(failed)} of the last {len(newest)} deliveries failed; the newest: {failed[0].event}"
        answer = failed[0].status_code or "no answer"
        mend = "devstral-fix github check --redeliver has the newest of them sent again"
        yield Finding("deliveries", Status.WARN, f"{detail}, {answer}", mend)
    elif newest:
        yield Finding("deliveries", Status.OK, f"the last {len(newest)} were taken")


def _of_token(token: SecretStr, repositories: Sequence[str], options: ClientOptions) -> Iterator[Finding]:
    info = token_info(token, options)
    if info.scopes is None:
        detail = f"a token of {info.login}; a fine-grained one does not tell what it may"
        yield Finding(ACCOUNT, Status.OK, detail)
    elif CLASSIC_SCOPES & set(info.scopes):
        yield Finding(ACCOUNT, Status.OK, f"a classic token of {info.login}: {', '.join(info.scopes)}")
    else:
        detail = f"a classic token of {info.login} without the scope repo (or public_repo)"
        yield Finding(ACCOUNT, Status.MISSING, detail, f"make one at {web_url(options.api_url)}/settings/tokens")
    for repository in repositories:
        yield from _reach(token, repository, options)


def _reach(token: SecretStr, repository: str, options: ClientOptions) -> Iterator[Finding]:
    try:
        reach = token_reach(token, repository, options)
    except ForgeRefused as refused:
        yield Finding(repository, Status.MISSING, str(refused), "give the token access to the repository")
        return
    wrong = [] if reach.push else ["its user may not push"]
    wrong += [said for said in (reach.issues, reach.pull_requests) if said]
    if wrong:
        mend = "contents, issues and pull requests have to be read and write"
        yield Finding(repository, Status.MISSING, "; ".join(wrong), mend)
    else:
        yield Finding(repository, Status.OK, "can be read and pushed to; what else may be written shows when it is")


def delivered_to_itself(settings: Settings) -> Iterator[Finding]:
    """A ping, signed with our secret, to where GitHub is to send events: the way from outside, all of it."""
    if settings.public_url is None:
        detail = "not tried: DEVSTRAL_FIX_PUBLIC_URL is not set"
        yield Finding("own delivery", Status.WARN, detail, "set it to the address that GitHub reaches")
        return
    if settings.webhook_secret is None:
        yield Finding("own delivery", Status.MISSING, "there is no webhook secret", "set DEVSTRAL_FIX_WEBHOOK_SECRET")
        return
    problem = ping(settings.public_url, settings.webhook_secret)
    if problem is None:
        yield Finding("own delivery", Status.OK, f"taken at {hook_url(settings.public_url)}")
    else:
        yield Finding("own delivery", Status.MISSING, *problem)


def ping(public_url: str, secret: SecretStr) -> tuple[str, str] | None:
    """Send one; None when it was taken, else what is wrong and what mends it. No redirect is followed: the signature
    goes to the address that is set, or nowhere."""
    url, body = hook_url(public_url), json.dumps(PING).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "devstral-fix",
        "X-GitHub-Event": "ping",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256="
        + hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest(),
    }
    try:
        with httpx2.Client(timeout=SECONDS, follow_redirects=False) as client:
            status = client.post(url, content=body, headers=headers).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return f"{url} can't be reached ({type(error).__name__})", "see that the API runs, and the proxy in front of it"
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"{url} answers with a redirect ({status}), which GitHub does not follow", "set the address it leads to"
    mends = {
        401: "the API runs with another secret: start it anew with the settings of now",
        404: "the API has no DEVSTRAL_FIX_WEBHOOK_SECRET, or something else answers there",
        415: "a proxy changes the content type",
    }
    return f"{url} answers {status}", mends.get(status, "see the API's log, and the proxy in front of it")


def worst(found: Sequence[Finding]) -> Status:
    order = (Status.OK, Status.WARN, Status.MISSING)
    return max((finding.status for finding in found), key=order.index, default=Status.OK)


def redeliver(settings: Settings) -> str:
    """Have GitHub send again what failed last, else the newest delivery: how it went is in the next check. What was
    asked for, in words; ServiceError when it can't be."""
    if settings.github_app_id is None:
        raise SettingsError("only an App's deliveries can be asked for again")
    options = ClientOptions(api_url=settings.github_url, timeout=5, retries=0, max_wait=0)
    with AppAdmin(settings.github_app_id, Path(settings.need("github_app_key_file")), options) as admin:
        newest = admin.deliveries()
        if not newest:
            raise _Nothing("GitHub has delivered nothing yet")
        chosen = next((one for one in newest if not 200 <= one.status_code < 300), newest[0])
        admin.redeliver(chosen.id)
    return f"GitHub sends {chosen.event} ({chosen.id}) again"


class _Nothing(ServiceError):
    """There is nothing to redeliver."""
