"""Runs inside a sandbox: a loopback port that leads to the proxy's unix socket, and a command that is told of it.

Standard library only, and one file: it is copied, and run by whatever Python 3 the sandbox has.
Arguments: the socket's path, "--", the command. Ends as the command does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

_CHUNK = 65536
_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def copy(source: socket.socket, sink: socket.socket) -> None:
    """One direction, to its end; the end is passed on."""
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def carry(client: socket.socket, path: str) -> None:
    """Both directions of one connection."""
    with client, socket.socket(socket.AF_UNIX) as proxy:
        try:
            proxy.connect(path)
        except OSError:
            return
        back = threading.Thread(target=copy, args=(proxy, client), daemon=True)
        back.start()
        copy(client, proxy)
        back.join()


def serve(listener: socket.socket, path: str) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=carry, args=(client, path), daemon=True).start()


def main(argv: list[str]) -> int:
    """The command's exit status, as a shell would say it."""
    path, _, *command = argv
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=serve, args=(listener, path), daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    names = [*_NAMES, *(name.lower() for name in _NAMES)]
    try:
        done = subprocess.run(command, env={**os.environ, **dict.fromkeys(names, address)}, check=False)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
