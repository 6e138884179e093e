"""Which package indexes this machine uses: asked of the package clients themselves, never written down here.

A client that is missing, or doesn't say, adds nothing. Credentials in addresses are dropped before anything is kept.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worker.adapters.egress.policy import BadHost, HostPattern

_SECONDS = 20.0
_CERTIFICATES = "/etc/ssl/certs/"  # the folder of them that a sandbox is shown


@dataclass(frozen=True)
class Indexes:
    """`hosts` of all indexes; `env` says to the clients inside what the clients outside are configured to."""

    hosts: tuple[HostPattern, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Found:
    hosts: dict[HostPattern, None] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def add(self, urls: Iterable[str]) -> list[str]:
        """Keep the hosts of web addresses; these addresses without credentials."""
        kept = []
        for url in urls:
            clean = without_credentials(url)
            if clean is not None:
                self.hosts[clean[1]] = None
                kept.append(clean[0])
        return kept

    def tell(self, name: str, values: Sequence[str], separator: str = " ") -> None:
        if values:
            self.env[name] = separator.join(values)


def without_credentials(url: str) -> tuple[str, HostPattern] | None:
    """A web address without its user part, and the host it names; None for anything else (a folder, `direct`)."""
    try:
        parts = urlsplit(url.strip().removeprefix("sparse+").removeprefix("git+"))
        host, port = parts.hostname, parts.port
        if parts.scheme not in {"http", "https"} or not host:
            return None
        shown = f"[{host}]" if ":" in host else host
        pattern = HostPattern.parse(f"{shown}:{port or (443 if parts.scheme == 'https' else 80)}")
    except (BadHost, ValueError):
        return None
    return parts._replace(netloc=shown if port is None else f"{shown}:{port}").geturl(), pattern


def ask(environ: Mapping[str, str] | None = None) -> Indexes:
    """What pip, uv, npm, cargo and go say on this machine. Takes a second or two; starts programs, asks no network."""
    env = dict(os.environ if environ is None else environ)
    found = _Found()
    for client in (_pip, _uv, _npm, _cargo, _go):
        client(found, env)
    return Indexes(tuple(found.hosts), found.env)


def _say(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """What a client prints; empty when it is missing or fails."""
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, env=env, cwd="/", timeout=_SECONDS,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _pip(found: _Found, env: Mapping[str, str]) -> None:
    python = next((p for p in (sys.executable, "python3") if _say([p, "-m", "pip", "--version"], env)), None)
    if python is None:
        return
    # What pip falls back to is in pip: its index, and the host that this index keeps its files on.
    builtin = _say(
        [python, "-c", "from pip._internal.models.index import PyPI as p; print(p.simple_url, p.file_storage_domain)"],
        env,
    ).split()
    settings: dict[str, list[str]] = {}
    ranks: dict[str, int] = {}
    for line in _say([python, "-m", "pip", "config", "list"], env).splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.strip().rpartition(".")
        rank = {":env:": 3, "install": 2, "global": 1}.get(section, 0)
        if equals and rank and rank >= ranks.get(name, 0):
            ranks[name] = rank
            settings[name] = " ".join(shlex.split(value)).split()
    index = found.add(settings.get("index-url", builtin[:1])[:1])
    extra = found.add(settings.get("extra-index-url", []))
    if len(builtin) == 2 and any(_same_host(url, builtin[0]) for url in (*index, *extra)):
        found.add([f"https://{builtin[1]}/"])
    found.tell("PIP_INDEX_URL", index)
    found.tell("PIP_EXTRA_INDEX_URL", extra)
    found.tell("PIP_TRUSTED_HOST", settings.get("trusted-host", []))
    found.tell("PIP_CERT", [path for path in settings.get("cert", [])[:1] if path.startswith(_CERTIFICATES)])


def _same_host(one: str, other: str) -> bool:
    return urlsplit(one).hostname == urlsplit(other).hostname


def _uv(found: _Found, env: Mapping[str, str]) -> None:
    said = _say(["uv", "pip", "install", "--help"], env)
    if not said:
        return
    config: dict[str, Any] = {}
    homes = [*env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"), "/etc", _config_home(env)]
    for home in homes:  # later ones count more
        config |= _toml(Path(home, "uv", "uv.toml"))
    pip = config.get("pip") if isinstance(config.get("pip"), dict) else {}
    listed = [entry for entry in config.get("index", []) if isinstance(entry, dict)]
    default = [env.get("UV_DEFAULT_INDEX"), env.get("UV_INDEX_URL"),
               *(entry.get("url") for entry in listed if entry.get("default")),
               (pip or {}).get("index-url"), config.get("index-url"),
               *re.findall(r"default package index \(by default: <?(http[^\s<>)]+)", said)]  # fmt: skip
    extra = [*env.get("UV_INDEX", "").split(), *env.get("UV_EXTRA_INDEX_URL", "").split(),
             *(entry.get("url") for entry in listed if not entry.get("default")),
             *_strings((pip or {}).get("extra-index-url")), *_strings(config.get("extra-index-url"))]  # fmt: skip
    first = next((url for url in default if isinstance(url, str) and url), None)
    found.tell("UV_DEFAULT_INDEX", found.add([] if first is None else [first.rpartition("=")[2]]))
    found.tell("UV_INDEX", found.add(url.rpartition("=")[2] for url in extra if isinstance(url, str)))


def _npm(found: _Found, env: Mapping[str, str]) -> None:
    said = _say(["npm", "config", "get", "registry"], env).split()
    found.tell("NPM_CONFIG_REGISTRY", found.add(said[-1:]))


def _cargo(found: _Found, env: Mapping[str, str]) -> None:
    """cargo has no command that says where its default registry is: only what is configured counts."""
    home = Path(env.get("CARGO_HOME") or Path(env.get("HOME", "/nonexistent"), ".cargo"))
    config = _toml(home / "config.toml") or _toml(home / "config")
    lines = []
    for kind, key in (("source", "registry"), ("registries", "index")):
        tables = config.get(kind)
        for name, table in (tables if isinstance(tables, dict) else {}).items():
            if not isinstance(table, dict) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                continue
            url = table.get(key)
            clean = found.add([url]) if isinstance(url, str) else []
            prefix = "sparse+" if isinstance(url, str) and url.startswith("sparse+") else ""
            kept = {key: prefix + clean[0]} if clean else {}
            instead = table.get("replace-with")
            if isinstance(instead, str) and re.fullmatch(r"[A-Za-z0-9_-]+", instead):
                kept["replace-with"] = instead
            if kept:
                lines += [f"[{kind}.{name}]", *(f'{k} = "{v}"' for k, v in kept.items() if '"' not in v)]
    found.tell("DEVSTRAL_FIX_CARGO_CONFIG", lines, "\n")


# What a user of private modules tells go: which ones no check sum database knows, and which no proxy.
_GO_SAYS = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOINSECURE")


def _go(found: _Found, env: Mapping[str, str]) -> None:
    said = dict(zip(_GO_SAYS, [*_say(["go", "env", *_GO_SAYS], env).splitlines(), *[""] * len(_GO_SAYS)], strict=False))
    proxies = [url for url in re.split(r"[,|]", said["GOPROXY"]) if without_credentials(url)]
    found.tell("GOPROXY", found.add(proxies), ",")
    if not proxies:
        return
    for name in _GO_SAYS[2:]:
        found.tell(name, [said[name]] if said[name] else [])
    if said["GOSUMDB"] in {"", "off"}:
        found.tell("GOSUMDB", [said["GOSUMDB"]] if said["GOSUMDB"] else [])
        return
    name, _, url = said["GOSUMDB"].partition(" ")
    if found.add([url or f"https://{name.partition('+')[0]}/"]):
        found.env["GOSUMDB"] = name if not url else f"{name} {found.add([url])[0]}"


def _config_home(env: Mapping[str, str]) -> str:
    return env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "/nonexistent"), ".config"))


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
