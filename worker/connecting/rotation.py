"""A new webhook secret or App key in place of the one before, so that no event is lost and no call fails in between."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from worker.adapters.forge import ClientOptions
from worker.adapters.forge.app import AppAdmin
from worker.connecting import check, env_file
from worker.errors import SettingsError
from worker.settings import PREFIX, Settings

SECRET, PREVIOUS = f"{PREFIX}WEBHOOK_SECRET", f"{PREFIX}WEBHOOK_SECRET_PREVIOUS"
KEY_FILE = f"{PREFIX}GITHUB_APP_KEY_FILE"


@dataclass(frozen=True)
class Step:
    """Where a rotation stands; `left` is what a person has to do, empty when it is over."""

    done: str
    left: str = ""


def refuse_overruled(path: Path, *names: str) -> None:
    """SettingsError where the environment sets what is to be written to the file: it would win."""
    for name in names:
        if os.environ.get(name):
            raise SettingsError(f"{name} is set in the environment, which wins over {path}: take it out there first")


def rotate_secret(settings: Settings, path: Path, *, restarted: bool) -> Step:
    """One step on. The API accepts both secrets before GitHub signs with the new one: first the file, then the API's
    restart, which is tried and not believed where there is a public address, then GitHub."""
    refuse_overruled(path, SECRET, PREVIOUS)
    there = env_file.read(path)
    if SECRET not in there:
        raise SettingsError(f"{path} sets no {SECRET}: devstral-fix github setup makes one")
    new = SecretStr(there[SECRET])
    if PREVIOUS not in there:
        new = SecretStr(secrets.token_hex(32))
        env_file.change(path, {SECRET: new.get_secret_value(), PREVIOUS: there[SECRET]})
        restarted = False  # whatever was started before does not know it
    again = "start the API anew, then give the same command again"
    if settings.public_url is not None:
        problem = check.ping(settings.public_url, new)
        if problem is not None:
            return Step(f"the new secret is in {path}; {problem[0]}", again)
    elif not restarted:
        return Step(f"the new secret is in {path}", f"{again} with --restarted")
    if settings.github_app_id is None:
        form = "type the new secret into the webhook's form at GitHub"
        return Step(f"the API accepts the new secret, which is in {path}", f"{form}, then give --finish")
    with _admin(settings, Path(settings.need("github_app_key_file"))) as admin:
        admin.set_secret(new)
    return Step("GitHub signs with the new secret", "once no older event is to come, give --finish")


def finish_secret(path: Path) -> Step:
    """The secret before is accepted no longer, once the API is started anew."""
    refuse_overruled(path, PREVIOUS)
    if PREVIOUS not in env_file.read(path):
        return Step(f"{path} holds one secret only")
    env_file.change(path, {PREVIOUS: None})
    return Step(f"the secret before is gone from {path}", "start the API anew")


def rotate_key(settings: Settings, new: Path) -> Step:
    """Put a key that was made at GitHub in the place of the one in use, after it was seen to work."""
    current = Path(settings.need("github_app_key_file"))
    if settings.github_app_id is None:
        settings.need("github_app_id")
    if new.resolve() == current.resolve():
        raise SettingsError(f"{new} is the key in use: give the file of the new one")
    with _admin(settings, new) as admin:
        slug = admin.app().slug
    env_file.put(current, new.read_text(encoding="ascii"))
    return Step(
        f"{current} holds the new key of {slug}, which works",
        f"start the `default` workers anew, delete the old key at GitHub, and {new} here",
    )


def _admin(settings: Settings, key: Path) -> AppAdmin:
    assert settings.github_app_id is not None
    return AppAdmin(settings.github_app_id, key, ClientOptions(api_url=settings.github_url, max_wait=0))
