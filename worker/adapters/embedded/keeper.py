"""A server's keeper: a small process that runs one server for as long as somebody uses it, then stops it.

Run by path, standard library only, with its orders as JSON on stdin (put together in `server.py`). Users hold a shared
lock on one file; the keeper waits for the exclusive one, which the kernel grants when the last user has let go, also
when that user was killed. So no server outlives the processes it was started for, and no process has to be told.

Two more locks are handed down as descriptors: `keeper` stays with this process and means "may be attached to";
`server` is inherited by the server and its children and means "some process may still write the data".
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def _detach() -> None:
    """Leave the starter at once, so that it has no child to reap, whatever order users come and go in."""
    if os.fork():
        os._exit(0)
    os.setsid()


def _wait_for_last_user(path: str, server: subprocess.Popen[bytes], stop: int, grace: float) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # kept until this process ends: nobody may attach to a stopping server
    server.send_signal(stop)
    try:
        server.wait(grace)
    except subprocess.TimeoutExpired:
        server.kill()


def _run(orders: dict[str, Any]) -> int:
    libc = ctypes.CDLL(None)
    stop: int = orders["stop_signal"]
    uid: int | None = orders["uid"]

    def die_with_keeper() -> None:  # after the change of user, which would clear it
        libc.prctl(_PR_SET_PDEATHSIG, stop)

    with Path(orders["log"]).open("ab") as log:
        server = subprocess.Popen(
            orders["argv"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=orders["env"],
            cwd=orders["cwd"],
            pass_fds=[orders["server_lock"]],
            preexec_fn=die_with_keeper,  # noqa: PLW1509 - no thread runs yet
            umask=0o077,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
    os.close(orders["server_lock"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: server.send_signal(stop))
    assert server.stdin is not None
    server.stdin.write(orders["stdin"].encode())
    server.stdin.close()
    threading.Thread(
        target=_wait_for_last_user, args=(orders["users_lock"], server, stop, orders["grace"]), daemon=True
    ).start()
    return server.wait()


def main() -> int:
    orders = json.load(sys.stdin)
    _detach()
    try:
        return _run(orders)
    except OSError as error:
        with Path(orders["log"]).open("a") as log:
            log.write(f"{orders['argv'][0]}: {error}\n")
        return 1
    finally:
        if orders["scratch"]:
            shutil.rmtree(orders["scratch"], ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
