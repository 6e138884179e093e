"""Collects the facts that `worker.doctor` judges: reads, tries and connects; changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.protocols import Isolation
from worker import compose
from worker.adapters.models import dialects
from worker.adapters.models.address import check_address
from worker.adapters.sandbox.probe import probe
from worker.connecting import check
from worker.demo.node import node_command
from worker.doctor import SYSCTLS, Facts, Finding
from worker.errors import ServiceError, Transient
from worker.runs import pausing, workforce
from worker.settings import Settings
from worker.store.session import Store

_SECONDS = 5.0
GVISOR_FAILS = "Debian 12's build (20221219) fails `ls -la` and is refused, no newer one was tried"


def examine(settings: Settings) -> Facts:
    machine = probe()
    services: dict[str, str | None] = {}
    details: dict[str, str] = {}
    schema = _database(settings, services)
    _redis(settings, services)
    _model(settings, services, details)
    _github(settings, services, details)
    place = _there(settings.data_dir)
    return Facts(
        kernel=machine.kernel,
        machine=machine.machine,
        root=machine.root,
        container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
        levels={level: _try_level(settings, level) for level in Isolation},
        sandbox=settings.sandbox,
        bwrap=None if machine.best is None else machine.best.version,
        user_namespaces=machine.user_namespaces,
        seccomp=machine.seccomp_filter,
        cgroup_v1=machine.cgroup_v1,
        cgroup_v2=machine.cgroup_v2,
        sysctls=_sysctls(),
        tools={name: shutil.which(name, path=_path()) for name in ("nsenter", "unshare", "mount")}
        | {"git": _said(["git", "--version"]), "node": _node()},
        backends=_backends(settings),
        python=sys.version_info[:3],
        services=services,
        details=details,
        github=_asked(settings, services),
        schema=schema,
        **_service(settings, schema),
        disk_free=_disk_free(place),
        data_writable=place is None or os.access(place, os.W_OK | os.X_OK),
        profile=settings.profile,
        engine=settings.engine,
        gpus=_gpus(),
    )


def _try_level(settings: Settings, level: Isolation) -> str | None:
    """Start a sandbox as a worker would, at this level, in a folder that goes away: None when it worked."""
    with tempfile.TemporaryDirectory(prefix="devstral-fix-doctor-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        try:
            compose.make_sandbox(
                settings.model_copy(update={"isolation": level}), folder, compose.make_repositories(folder)
            )
        except (ServiceError, OSError) as e:
            return str(e)
    return None


def _gpus() -> tuple[float, ...]:
    """GiB of each GPU, by the driver's own program."""
    said = _answer(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]) or ""
    return tuple(int(line) / 1024 for line in said.split() if line.isdecimal())


def _sysctls() -> dict[str, str]:
    found = {}
    for name in SYSCTLS:
        path = Path("/proc/sys", name.replace(".", "/"))
        if path.is_file():
            found[name] = path.read_text().strip()
    return found


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


def _said(argv: list[str]) -> str | None:
    """The first line that a program answers with; None when it can't be run."""
    answer = _answer(argv)
    return answer.splitlines()[0] if answer else None


def _answer(argv: list[str]) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _node() -> str | None:
    try:
        return _said([*node_command(), "--version"])
    except ServiceError:
        return None


def _backends(settings: Settings) -> dict[str, str]:
    questions = {
        "docker": ["docker", "version", "--format", "{{.Server.Version}}"],
        "podman": ["podman", "info", "--format", "{{.Version.Version}}"],
        "gvisor": ["runsc", "--version"],
    }
    said = {}
    for name, argv in questions.items():
        if shutil.which(argv[0]) is None:
            said[name] = f"`{argv[0]}` is not installed; only that backend needs it"
        elif _said(argv) is None:
            said[name] = f"`{argv[0]}` is installed, but does not answer; only that backend needs it"
        else:
            said[name] = "answers" if settings.sandbox != "bwrap" else "answers (no sandbox was tried)"
            if name == "gvisor":
                said[name] += f"; {GVISOR_FAILS}"
    return said


def _database(settings: Settings, services: dict[str, str | None]) -> tuple[str | None, str] | None:
    """(the schema's revision, the newest one)."""
    if settings.database_url is None:
        return None
    import psycopg  # noqa: PLC0415 - only where it is asked
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    from worker.migrate import config  # noqa: PLC0415

    url = settings.need("database_url")
    plain = "postgresql://" + url.partition("://")[2]
    try:
        with psycopg.connect(plain, connect_timeout=int(_SECONDS)) as connection:
            made = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if made and made[0] else None
    except psycopg.Error as e:
        services["database"] = _brief(e)
        return None
    services["database"] = None
    newest = ScriptDirectory.from_config(config(url)).get_current_head()
    return (None if row is None else str(row[0]), str(newest))


def _service(settings: Settings, schema: tuple[str | None, str] | None) -> dict[str, Any]:
    """What is paused, and which workers are missing, where the database is of this release."""
    if schema is None or schema[0] != schema[1]:
        return {}
    store = Store(settings.need("database_url"), pool_size=1)
    try:
        with store.transaction() as session:
            failed = [f"{seen.name} ({seen.role}): {seen.failure}" for seen in workforce.seen(session) if seen.failure]
            missing = (*failed, *workforce.waiting_in_vain(session))
            return {"pauses": tuple(pausing.pauses(session)), "missing_workers": missing}
    except Transient:  # it went away since it was asked for its schema
        return {}
    finally:
        store.close()


def _redis(settings: Settings, services: dict[str, str | None]) -> None:
    if settings.redis_url is None:
        return
    import redis  # noqa: PLC0415

    try:
        client = redis.Redis.from_url(
            settings.need("redis_url"), socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS
        )
        with client:
            client.ping()
        services["redis"] = None
    except (redis.RedisError, ValueError, OSError) as e:
        services["redis"] = _brief(e)


def _model(settings: Settings, services: dict[str, str | None], details: dict[str, str]) -> None:
    """Whether the server answers at all: its list of models is asked for, no language model runs. Of a `vllm:` model,
    what can be known without starting an engine."""
    if settings.model is None:
        return
    if settings.engine_model is not None:
        try:
            compose.check_model(settings)
        except ServiceError as e:
            services["model"] = str(e)
            return
        services["model"] = None
        details["model"] = f"{settings.engine_model.name}, on an engine in each GPU worker; none was started"
        return
    kind, _, rest = settings.model.partition(":")
    if kind == "scripted":
        there = Path(rest).is_file()
        services["model"] = None if there else f"there is no script {rest}"
        details["model"] = "a script; no language model runs"
        return
    url, _, name = rest.partition("#")
    try:
        check_address(url, settings.allow_remote_models)
        request = urllib.request.Request(f"{url.rstrip('/')}/models")  # noqa: S310 - checked to be http(s)
        if settings.model_api_key is not None:
            request.add_header("Authorization", f"Bearer {settings.model_api_key.get_secret_value()}")
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            card = dialects.card(json.loads(answer.read(1 << 20)), name)
    except urllib.error.HTTPError as e:
        services["model"] = f"{urlsplit(url).netloc} answers {e.code}"
        return
    except (ServiceError, OSError, ValueError) as e:
        services["model"] = _brief(e)
        return
    place = urlsplit(url).netloc
    services["model"] = f"{place} serves no model called {name}" if card is None else None
    details["model"] = f"{name} at {place}{'' if card is None else _dialect(card, settings)}"


def _dialect(card: dialects.Card, settings: Settings) -> str:
    """What the list of models tells of a server, and what it does not; `doctor --model` sees the rest."""
    asked = settings.limits.context_tokens
    name = f"; {card.server.name}" if card.server else "; a server of no known dialect"
    if card.window is None:
        window = f"it does not tell its window: it has to have the {asked:,} tokens of DEVSTRAL_FIX_LIMITS"
    elif card.window < asked:
        window = f"a window of {card.window:,} tokens, which runs keep to instead of {asked:,}"
    else:
        window = f"a window of {card.window:,} tokens"
    cached = f"; for cached tokens: {card.server.cached}" if card.server and card.server.cached else ""
    return f"{name}, {window}{cached}"


def _github(settings: Settings, services: dict[str, str | None], details: dict[str, str]) -> None:
    """The key is read and looked at, never shown or used."""
    if settings.github_app_id is None:
        if settings.github_token is not None:
            services["github"] = None
            details["github"] = "a personal token"
        return
    path = settings.github_app_key_file
    if path is None:
        services["github"] = "an App without a key file"
        return
    try:
        pem = path.read_bytes()
    except OSError as e:
        services["github"] = f"the App's key can't be read: {e.strerror}"
        return
    services["github"] = None if b"PRIVATE KEY-----" in pem else "the App's key file is no PEM private key"
    details["github"] = f"App {settings.github_app_id}, its key is readable"


def _asked(settings: Settings, services: dict[str, str | None]) -> tuple[Finding, ...]:
    """GitHub itself is asked only as somebody; nothing is changed there."""
    return tuple(check.findings(settings)) if services.get("github", "") is None else ()


def _there(folder: Path) -> Path | None:
    """The data directory, or where it would be made; None when that can't be known."""
    path = folder.absolute()
    for place in (path, *path.parents):
        try:
            place.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return place
    return None


def _disk_free(place: Path | None) -> int | None:
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


def _brief(error: Exception) -> str:
    """One line, without addresses that hold passwords (drivers name host and port only)."""
    return " ".join(str(error).split())[:200] or type(error).__name__
