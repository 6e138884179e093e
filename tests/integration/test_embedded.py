"""The embedded servers: real ones, whose data survives and whose processes don't."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.adapters.embedded import Postgres, RedisServer, locks, place, redis_server
from worker.adapters.embedded.server import Server
from worker.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who is not allowed to run Postgres")


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that the servers' user can reach; pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="devstral-fix-test-"))
    path.chmod(0o711)
    yield path
    for part in path.iterdir():
        if part.is_dir():
            place.remove(part)
    place.remove(path)


def make(kind: type[Server], directory: Path) -> Server:
    return kind(directory / kind.name.lower())


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def client_of(url: str) -> redis.Redis:
    """One that says at once when something is wrong."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def put(server: Server, value: str) -> None:
    if isinstance(server, Postgres):
        query(server.url, "CREATE TABLE IF NOT EXISTS kept (value text)")
        query(server.url, f"INSERT INTO kept VALUES ('{value}')")
    else:
        with client_of(server.url) as client:
            client.rpush("kept", value)


def kept(server: Server) -> list[str]:
    if isinstance(server, Postgres):
        return [str(row[0]) for row in query(server.url, "SELECT value FROM kept ORDER BY value")]
    with client_of(server.url) as client:
        return sorted(item.decode() for item in client.lrange("kept", 0, -1))


def server_pid(server: Server) -> int:
    if isinstance(server, Postgres):
        return int((place.base_for(server.data_dir) / "data" / "postmaster.pid").read_text().splitlines()[0])
    with client_of(server.url) as client:
        return int(client.info("server")["process_id"])


def wait_for_end(descriptor: int) -> None:
    """Until the process of this pidfd is gone."""
    assert select.select([descriptor], [], [], 20)[0], "still running after 20 s"
    os.close(descriptor)


both = pytest.mark.parametrize("kind", [Postgres, RedisServer])


@both
def test_data_and_url_survive_a_restart(kind: type[Server], directory: Path) -> None:
    server = make(kind, directory)
    url = server.start()
    put(server, "before")
    server.stop()
    with make(kind, directory) as again:
        assert again.url == url
        assert kept(again) == ["before"]


@both
def test_nothing_runs_after_stop(kind: type[Server], directory: Path) -> None:
    server = make(kind, directory)
    server.start()
    process = os.pidfd_open(server_pid(server))
    server.stop()
    assert select.select([process], [], [], 0)[0], "the server outlived stop()"
    os.close(process)
    assert not locks.held(directory / kind.name.lower() / "server.lock"), "a process of the server is left"


@both
def test_server_stays_until_its_last_user_stops(kind: type[Server], directory: Path) -> None:
    first, second = make(kind, directory), make(kind, directory)
    assert first.start() == second.start()
    pid = server_pid(first)
    first.stop()
    put(second, "still here")
    assert server_pid(second) == pid
    second.stop()
    with pytest.raises((psycopg.OperationalError, redis.ConnectionError)):
        put(second, "gone")


@both
def test_server_ends_with_a_user_that_was_killed(kind: type[Server], directory: Path) -> None:
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from worker.adapters.embedded import Postgres, RedisServer
        {kind.__name__}(Path(sys.argv[1])).start()
        print("started", flush=True)
        sys.stdin.read()
    """)
    server = make(kind, directory)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(server.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "started\n"
        process = os.pidfd_open(server_pid(server))
        user.kill()
    wait_for_end(process)


@both
def test_starts_again_after_kill_9(kind: type[Server], directory: Path) -> None:
    with make(kind, directory) as server:
        put(server, "before")
        if kind is RedisServer:  # what is promised is one second; the test needs it on disk now
            with client_of(server.url) as client:
                client.bgrewriteaof()
                client.config_set("appendfsync", "always")
                client.rpush("kept", "written")
        before = kept(server)
        os.kill(server_pid(server), signal.SIGKILL)
        server.start()
        assert kept(server) == before
        put(server, "zzz after")
        assert kept(server) == [*before, "zzz after"]


@both
def test_server_ends_with_its_keeper(kind: type[Server], directory: Path) -> None:
    """The keeper is what would stop it; killed itself, it must not leave a server that nobody stops."""
    with make(kind, directory) as server:
        process = os.pidfd_open(server_pid(server))
        status = Path(f"/proc/{server_pid(server)}/status").read_text()
        keeper = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
        os.kill(keeper, signal.SIGKILL)
        wait_for_end(process)
        server.start()
        put(server, "works")
        assert kept(server) == ["works"]


def test_template_gives_independent_databases(directory: Path) -> None:
    with Postgres(directory / "postgres", durable=False) as server:
        query(server.create_database("original"), "CREATE TABLE thing (id int)")
        copy = server.create_database("copy of it", template="original")
        query(copy, "INSERT INTO thing VALUES (1)")
        assert query(copy, "SELECT id FROM thing") == [(1,)]
        assert query(server.database_url("original"), "SELECT id FROM thing") == []
        server.drop_database("copy of it")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            query(copy, "SELECT 1")


def test_it_is_the_production_major_and_durable_by_default(directory: Path) -> None:
    with Postgres(directory / "postgres") as server:
        assert query(server.url, "SHOW server_version")[0][0].split(".")[0] == "18"
        assert query(server.url, "SHOW fsync") == [("on",)]
        assert query(server.url, "SHOW listen_addresses") == [("",)]


def test_postgres_refuses_a_wrong_password(directory: Path) -> None:
    with Postgres(directory / "postgres", durable=False) as server:
        password = (server.data_dir / "password").read_text()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            query(server.url.replace(password, "wrong"), "SELECT 1")


def test_redis_refuses_strangers_and_listens_on_loopback_alone(directory: Path) -> None:
    with RedisServer(directory / "redis") as server:
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        with client_of(f"redis://127.0.0.1:{port}") as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with client_of(server.url) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}


@both
def test_secrets_stand_in_no_command_line(kind: type[Server], directory: Path) -> None:
    with make(kind, directory) as server:
        password = server.url.split("://", 1)[1].split("@", 1)[0].split(":", 1)[1]
        lines = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                lines.append(process.read_bytes())
        assert password
        assert not [line for line in lines if password.encode() in line]


def test_a_very_long_path_still_works(directory: Path) -> None:
    deep = directory / ("x" * 120)
    with Postgres(deep / "postgres", durable=False) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
        socket_directory = Path((server.data_dir / "address").read_text())
        assert stat.S_IMODE(socket_directory.stat().st_mode) == 0o700
    assert not socket_directory.exists()


def test_modes_of_directories_that_are_not_ours_stay(directory: Path) -> None:
    """Most of all a private home: as root the data goes elsewhere instead."""
    home = directory / "home"
    home.mkdir(mode=0o700)
    for kind in (Postgres, RedisServer):
        server = kind(home / "project" / kind.name.lower())
        with server:
            put(server, "data")
        with server:
            assert kept(server) == ["data"]
        place.remove(server.data_dir)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711


def test_another_majors_data_is_refused_with_words(directory: Path) -> None:
    server = Postgres(directory / "postgres", durable=False)
    server.start()
    server.stop()
    (place.base_for(server.data_dir) / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(SettingsError, match=r"Postgres 17.*DEVSTRAL_FIX_DATA_DIR"):
        server.start()
    assert not locks.held(server.data_dir / "users.lock")


def test_a_file_in_the_way_is_told_by_name(directory: Path) -> None:
    (directory / "redis").touch()
    with pytest.raises(SettingsError, match="DEVSTRAL_FIX_DATA_DIR"):
        RedisServer(directory / "redis").start()


@as_root
def test_a_plain_user_needs_no_help(directory: Path) -> None:
    """The same servers, started by `nobody` from copies of the program it can read."""
    home = directory / "plain"
    home.mkdir()
    os.chown(home, place.NOBODY, place.NOBODY)
    program = textwrap.dedent("""
        import asyncio, os, stat, sys
        from pathlib import Path
        sys.modules.setdefault("async_timeout", asyncio)  # what redis wants on an older 3.11 than this one
        import psycopg, redis
        from worker.adapters.embedded import Postgres, RedisServer
        home = Path(sys.argv[1])
        assert os.geteuid() != 0
        for server in (Postgres(home / "postgres"), RedisServer(home / "redis")):
            with server:
                if server.name == "Postgres":
                    psycopg.connect(server.url.replace("+psycopg", "")).close()
                else:
                    redis.Redis.from_url(server.url).ping()
            assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
            assert not (server.data_dir / "elsewhere").exists()
        print("both")
    """)
    python = shutil.which(f"python3.{sys.version_info.minor}", path=os.defpath)
    packages = Path(psycopg.__file__).parent.parent
    if python is None or not place.reachable(packages) or not place.reachable(ROOT):
        pytest.skip("this environment, or its Python, lies where only root can read it")
    environment = home / "environment"  # as this one, but with a Python outside root's home
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(python)
    (environment / "pyvenv.cfg").write_text(f"home = {Path(python).parent}\n")
    target = environment / redis_server.binary().relative_to(sys.prefix)
    target.parent.mkdir(parents=True)
    shutil.copy(redis_server.binary(), target)
    user = ["setpriv", f"--reuid={place.NOBODY}", f"--regid={place.NOBODY}", "--clear-groups"]
    done = subprocess.run(
        [*user, str(environment / "bin" / "python"), "-c", program, str(home)],
        env={"HOME": str(home), "PATH": os.defpath, "PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.stdout == "both\n", done.stderr
