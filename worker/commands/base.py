"""What commands share: settings, one transaction, options, errors as exit statuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from agent.hygiene import printable
from worker import exits, readiness, terminal
from worker.errors import Permanent, ServiceError
from worker.servers import running_servers
from worker.settings import PROFILE, Settings
from worker.table import aligned

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or one array of a list.")
BRIEF = 60  # characters
BY = click.option("--by", default="operator", show_default=True, help="Who asks, for the record.")


class NotDone(Permanent):
    """What was asked for could not be done; the message says why."""


class Told(click.ClickException):
    """One of our errors, as one line and the exit status that belongs to it."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(str(error))
        self.error = error

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # a constant of click's own errors
        return exits.of(self.error)

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's own signature
        readiness.failed(self.message)
        terminal.text(f"devstral-fix: {self.message}", err=True)


class Commands(click.Group):
    """A group whose commands may raise our errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServiceError as error:
            raise Told(error) from error


def settings(**overrides: Any) -> Settings:
    return Settings.load(**{k: v for k, v in overrides.items() if v is not None})


def located(**overrides: Any) -> Settings:
    """The settings; a server that they don't name is that of an `up` that runs over the same data directory."""
    here = settings(**overrides)
    servers = running_servers(here.data_dir)
    if servers is None:
        return here
    found = {
        "database_url": here.database_url or SecretStr(servers.database_url),
        "redis_url": here.redis_url or SecretStr(servers.redis_url),
    }
    return here.model_copy(update=found)


def send(*wakes: Any) -> None:
    """Wake the service, where Redis can be found; without it the sweep does the same later."""
    from worker.queue import Publisher, make_app

    here = located()
    if here.redis_url is None:
        return
    publisher = Publisher(make_app(here.need("redis_url")))
    for wake in wakes:
        publisher.send(wake)
    publisher.close()


def in_transaction(action: Callable[[Any], Any]) -> Any:
    from worker.store.session import Store

    store = Store(located().need("database_url"), pool_size=1)
    try:
        with store.transaction() as session:
            return action(session)
    finally:
        store.close()


def brief(text: str | None) -> str:
    """What fits into a line of a list."""
    line = printable(" ".join((text or "").split()))
    return line if len(line) <= BRIEF else f"{line[: BRIEF - 1]}…"


def show_done(data: dict[str, Any], words: str, *, as_json: bool) -> None:
    """What a command did, for programs or for people."""
    if as_json:
        terminal.data(data)
    else:
        terminal.line(words)


def show_list(
    data: Sequence[dict[str, Any]], head: Sequence[str], rows: Sequence[Sequence[str]], *, none: str, as_json: bool
) -> None:
    """A list, for programs or for people; `none` is what is said in place of an empty one."""
    if as_json:
        terminal.data(data)
    elif not rows:
        terminal.line(f"None: {none}.")
    else:
        for line in aligned(head, rows):
            terminal.line(line)


class Text(click.types.StringParamType):
    """Any text; bytes that are no text were let in as lone surrogates, which nothing can store or show."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self.fail(f"{text!r} is no text in {sys.getfilesystemencoding()}", param, ctx)
        return text


def with_texts(command: click.Command) -> None:
    """Give every text of a command, and of those below it, the type that refuses what is none."""
    for parameter in command.params:
        if isinstance(parameter.type, click.types.StringParamType):
            parameter.type = Text()
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        with_texts(below)


def try_writing(path: Path | None, option: str) -> None:
    """Before work is done whose result goes there. What the file holds, and whether it is there, stays as it was."""
    if path is None or (path.exists() and not path.is_file()):  # a pipe may hear only once from us
        return
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"{path.parent} is no directory", param_hint=option)
    there = path.exists()
    try:
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise click.BadParameter(f"{path} can't be written: {error.strerror}", param_hint=option) from error


class Duration(click.ParamType[timedelta]):
    """A number and its unit; 0 alone is one, too."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([0-9]{1,6})([smh])|0", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no duration, such as 90s, 30m or 2h", param, ctx)
        unit = {"s": "seconds", "m": "minutes", "h": "hours", None: "seconds"}[found[2]]
        return timedelta(**{unit: int(found[1] or 0)})


class Profile(click.ParamType[str]):
    name = "profile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(PROFILE, str(value), re.ASCII) is None:
            self.fail(f"{value!r} is no profile's name, such as small-24b", param, ctx)
        return str(value)


class Repository(click.ParamType[str]):
    name = "owner/repo"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from worker.runs.asked import is_repository

        if not is_repository(str(value)):
            self.fail(f"{value!r} is not OWNER/REPO, such as acme/shop", param, ctx)
        return str(value)


class Target(click.ParamType[tuple[str, "int | None"]]):
    """OWNER/REPO, or OWNER/REPO#N: (repository, issue number or None)."""

    name = "owner/repo[#n]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        from worker.runs.asked import is_repository

        repository, sign, number = str(value).partition("#")
        numbered = number.isascii() and number.isdecimal() and 0 < int(number) < 2**31
        if not is_repository(repository) or (sign and not numbered):
            self.fail(f"{value!r} is neither OWNER/REPO nor OWNER/REPO#N, such as acme/shop#7", param, ctx)
        return repository, int(number) if sign else None
