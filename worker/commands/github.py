"""Commands about the service's account on GitHub: set-up, checks, rotation of key and secret."""

from __future__ import annotations

import sys
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import SecretStr

from worker import terminal
from worker.commands.base import AS_JSON, NotDone, Repository, settings, try_writing
from worker.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.connecting.registration import Landing
    from worker.connecting.rotation import Step
    from worker.doctor import Finding

ENV_FILE = click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(".env"),
    show_default=True,
    help="The file of settings.",
)


class PublicUrl(click.ParamType[str]):
    name = "url"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from urllib.parse import urlsplit

        parts = urlsplit(str(value))
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            self.fail(f"{value!r} is no address such as https://fix.example.com", param, ctx)
        return str(value).rstrip("/")


@click.group(epilog="Example: devstral-fix github check")
def github() -> None:
    """The account on GitHub: set it up, check it, rotate its key and secret."""


@github.command(epilog="Example: devstral-fix github setup --url https://fix.example.com --organization acme")
@click.option("--url", "public_url", type=PublicUrl(), help="Where GitHub reaches this service; needed for an App.")
@click.option("--organization", help="Register the App for this organisation, not for yourself.")
@click.option("--name", default="devstral-fix", show_default=True, help="The App's name; unique on GitHub.")
@click.option("--api-url", type=PublicUrl(), help="GitHub Enterprise: https://HOST/api/v3. Default: the setting.")
@ENV_FILE
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("github-app.private-key.pem"),
    show_default=True,
    help="Where the App's private key goes.",
)
@click.option("--headless", is_flag=True, help="No browser reaches this machine: take the address that GitHub led to.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("github-app.html"),
    show_default=True,
    help="With --headless: the page to open elsewhere.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page on loopback; 0: a free one.")
@click.option(
    "--wait", type=click.IntRange(1, 3600), default=3600, show_default=True, help="For the browser, in seconds."
)
@click.option("--token", "with_token", is_flag=True, help="A personal token in place of an App, read from stdin.")
@click.option("--force", is_flag=True, help="Replace what is set already.")
def setup(
    public_url: str | None,
    organization: str | None,
    name: str,
    api_url: str | None,
    env_file: Path,
    key_file: Path,
    page: Path,
    port: int,
    wait: int,
    *,
    headless: bool,
    with_token: bool,
    force: bool,
) -> None:
    """Register a GitHub App with what the service needs, and write its settings.

    GitHub shows what is asked for before anything is made. The private key and the webhook secret are written to files
    that only you can read, and never printed. Existing values stay, unless --force is given.
    """
    from worker.adapters.forge import ClientOptions
    from worker.adapters.forge.app import convert
    from worker.connecting import check
    from worker.connecting import setup as writing
    from worker.connecting.registration import Landing
    from worker.settings import Settings

    api = api_url or Settings.load(_env_file=env_file).github_url
    if with_token:
        writing.check_free(env_file, None, force=force)
        token = SecretStr(_line("Token"))
        info = writing.write_token(env_file, token, api_url=api, public_url=public_url)
        terminal.line(f"{env_file} holds the token of {info.login}")
        terminal.line("A token has no webhook of its own: at each repository, add one with the content type")
        terminal.line(f"application/json, the secret in {env_file} and the address of this service + /webhooks/github.")
    else:
        if public_url is None:
            raise click.UsageError("an App needs --url: where GitHub reaches this service")
        writing.check_free(env_file, key_file, force=force)
        for file, option in ((env_file, "--env-file"), (key_file, "--key-file")):
            try_writing(file, option)  # GitHub shows the key once
        if headless and page.exists():
            raise NotDone(f"{page} is there already: name another file with --page")
        with Landing(api_url=api, organization=organization, name=name, public_url=public_url, port=port) as landing:
            code = _carried(landing, page) if headless else _came_back(landing, wait)
        app = convert(code, ClientOptions(api_url=api, max_wait=0))
        writing.write_app(env_file, key_file, app, api_url=api, public_url=public_url)
        terminal.line(f"App {app.slug}: its settings are in {env_file}, its key in {key_file}")
        terminal.line(f"Install it on your repositories: {app.html_url}/installations/new")
    _show(list(check.findings(writing.read_back(env_file))))
    terminal.line("Start the service, then: devstral-fix github check")


def _came_back(landing: Landing, wait: int) -> str:
    terminal.line(f"Open this page in a browser on this machine: {landing.url}")
    code = landing.wait(wait)
    if code is None:
        raise NotDone("nobody came back from GitHub: nothing was changed here")
    return code


def _carried(landing: Landing, page: Path) -> str:
    """By a person, from a browser elsewhere."""
    from worker.connecting.env_file import put
    from worker.connecting.registration import code_of

    put(page, landing.page)
    terminal.line(f"Open {page} in any browser. GitHub leads it to an address that does not load: copy that.")
    code = code_of(_line("Address"), landing.state)
    page.unlink(missing_ok=True)
    if code is None:
        raise NotDone("that holds no code of this set-up: nothing was changed here")
    return code


def _line(what: str) -> str:
    """From a person's terminal unseen, or the first line of what is piped in."""
    if sys.stdin.isatty():
        return getpass(f"{what}: ")
    return sys.stdin.readline().strip()


@github.command(epilog="Example: devstral-fix github check --json | jq '.findings[] | select(.mend)'")
@click.argument("repositories", nargs=-1, type=Repository())
@click.option("--redeliver", is_flag=True, help="Have GitHub send again what failed last, else the newest event.")
@AS_JSON
def check(repositories: tuple[str, ...], *, redeliver: bool, as_json: bool) -> None:
    """Compare what GitHub grants and sends with what the service needs; deliver a ping to the service itself.

    Done (0) when nothing is missing. With a token, REPOSITORIES are looked at one by one. Nothing is changed.
    """
    from dataclasses import asdict

    from worker.connecting import check as checking
    from worker.doctor import Status

    here = settings()
    if redeliver:
        said = checking.redeliver(here)
        if not as_json:
            terminal.line(said)
    found = list(checking.findings(here, repositories))
    if as_json:
        terminal.data({"findings": [asdict(finding) for finding in found]})
    else:
        _show(found)
    sys.exit(Exit.FAILED if checking.worst(found) is Status.MISSING else Exit.DONE)


def _show(found: Sequence[Finding]) -> None:
    for finding in found:
        terminal.line(f"{finding.status.value:8}{finding.name}: {finding.detail}")
        if finding.mend:
            terminal.line(f"        mend: {finding.mend}")


@github.command("rotate-secret", epilog="Example: devstral-fix github rotate-secret")
@ENV_FILE
@click.option("--restarted", is_flag=True, help="The API was started anew since; asked for where it can't be tried.")
@click.option("--finish", is_flag=True, help="Forget the secret before.")
def rotate_secret(env_file: Path, *, restarted: bool, finish: bool) -> None:
    """Replace the webhook's secret, step by step: the service accepts both until --finish.

    Give it again as often as it names a next step.
    """
    from worker.connecting import rotation

    if finish:
        _tell(rotation.finish_secret(env_file))
        return
    _tell(rotation.rotate_secret(settings(_env_file=env_file), env_file, restarted=restarted))


@github.command(
    "rotate-key", epilog="Example: devstral-fix github rotate-key ~/Downloads/app.2026-11-27.private-key.pem"
)
@click.argument("new", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@ENV_FILE
def rotate_key(new: Path | None, env_file: Path) -> None:
    """Put a NEW private key of the App in the place of the one in use, once it is seen to work.

    GitHub makes keys on the App's page alone: without NEW this says where.
    """
    from worker.connecting import rotation
    from worker.connecting.registration import web_url

    here = settings(_env_file=env_file)
    if new is None:
        page = f"{web_url(here.github_url)}/settings/apps (of an organisation: its settings, GitHub Apps)"
        terminal.line(f"1. Generate a private key for the App: {page}")
        terminal.line("2. devstral-fix github rotate-key FILE, with the file that the browser saved")
        return
    _tell(rotation.rotate_key(here, new))


def _tell(step: Step) -> None:
    terminal.line(step.done)
    if step.left:
        terminal.line(f"next: {step.left}")
