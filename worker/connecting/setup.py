"""What a set-up writes: an App's or a token's credentials, into the file of settings and beside it."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import SecretStr

from worker.adapters.forge import ClientOptions
from worker.adapters.forge.app import Registered, TokenInfo, token_info
from worker.connecting import env_file
from worker.connecting.rotation import KEY_FILE, SECRET, refuse_overruled
from worker.errors import SettingsError
from worker.settings import PREFIX, Settings

APP_ID, TOKEN = f"{PREFIX}GITHUB_APP_ID", f"{PREFIX}GITHUB_TOKEN"
API_URL, PUBLIC_URL = f"{PREFIX}GITHUB_URL", f"{PREFIX}PUBLIC_URL"
DEFAULT_API = "https://api.github.com"


def check_free(path: Path, key_file: Path | None, *, force: bool) -> None:
    """Before a person is sent to GitHub: SettingsError where something is there already that would be replaced, or
    nothing can be written."""
    refuse_overruled(path, APP_ID, KEY_FILE, TOKEN, SECRET)
    there = [name for name in (APP_ID, KEY_FILE, TOKEN, SECRET) if name in env_file.read(path)]
    if there and not force:
        raise SettingsError(f"{path} sets {', '.join(there)} already; --force replaces what is there")
    if key_file is not None and key_file.exists() and not force:
        raise SettingsError(f"{key_file} is there already; --force replaces it")
    for place in (path, *([key_file] if key_file else [])):
        if not place.absolute().parent.is_dir():
            raise SettingsError(f"{place.parent} is no directory")


def write_app(path: Path, key_file: Path, app: Registered, *, api_url: str, public_url: str) -> None:
    """The key first: settings never name a file that is not there."""
    env_file.put(key_file, app.private_key.get_secret_value())
    values: dict[str, str | None] = {
        APP_ID: str(app.app_id),
        KEY_FILE: str(key_file),
        SECRET: app.webhook_secret.get_secret_value(),
        PUBLIC_URL: public_url,
        TOKEN: None,
    }
    env_file.change(path, values | _api(api_url))


def write_token(path: Path, token: SecretStr, *, api_url: str, public_url: str | None) -> TokenInfo:
    """After GitHub was asked whose it is. A webhook secret is made where there is none."""
    if not token.get_secret_value().strip():
        raise SettingsError("the token is empty")
    info = token_info(token, ClientOptions(api_url=api_url, max_wait=0))
    values: dict[str, str | None] = {TOKEN: token.get_secret_value(), APP_ID: None, KEY_FILE: None}
    values[SECRET] = env_file.read(path).get(SECRET) or secrets.token_hex(32)
    if public_url is not None:
        values[PUBLIC_URL] = public_url
    env_file.change(path, values | _api(api_url))
    return info


def _api(api_url: str) -> dict[str, str | None]:
    return {} if api_url == DEFAULT_API else {API_URL: api_url}


def read_back(path: Path) -> Settings:
    """The settings as a process that starts now would have them."""
    return Settings.load(_env_file=path)
