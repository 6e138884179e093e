"""A broker behind a socket, as DEVSTRAL_FIX_REDIS_URL names it: kombu and the Redis client read the same queue."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import redis

from worker import wakes
from worker.adapters.embedded.redis_server import binary
from worker.queue import make_app


def test_a_unix_socket_with_a_password_and_a_database():
    with tempfile.TemporaryDirectory(prefix="devstral-fix-") as folder:  # a socket's path is short
        path = Path(folder, "r.sock")
        settings = f'port 0\nunixsocket "{path}"\nrequirepass word\nsave ""\ndir "{folder}"\n'
        server = subprocess.Popen([binary(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert server.stdin is not None
        server.stdin.write(settings.encode())
        server.stdin.close()
        try:
            deadline = time.monotonic() + 30
            while not path.is_socket():
                assert time.monotonic() < deadline
                time.sleep(0.01)  # another process: looking is the only way to know
            url = f"unix://:word@{path}?db=3"
            wake = wakes.sweep()
            app = make_app(url)
            app.send_task(wake.task, queue=wake.queue, retry=False)
            app.close()
            with redis.Redis.from_url(url) as client:
                assert client.llen(wake.queue) == 1
        finally:
            server.terminate()
            server.wait()
