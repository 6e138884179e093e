"""What a process tells whoever supervises it: that it works from now on, or why it ends. The protocol is systemd's
(`NOTIFY_SOCKET`), so a unit of `Type=notify` hears the same as `up` does."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

VARIABLE = "NOTIFY_SOCKET"
MOST = 2000  # bytes of a message


def ready() -> None:
    """Its start is over."""
    _tell("READY=1")


def failed(why: str) -> None:
    """Why it ends, as one line."""
    _tell(f"STATUS={' '.join(why.split())}")


def _tell(what: str) -> None:
    """Never blocks and never fails: nobody may be listening."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.setblocking(False)
        speaker.sendto(what.encode(errors="replace")[:MOST], name)


class Listener:
    """The other end, of one process: `ready` since its start, and the last reason it gave."""

    def __init__(self, path: Path) -> None:
        """`path` names the socket, in a directory that belongs to this user alone. OSError."""
        self.path = path
        self.ready = False
        self.why: str | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    def forget(self) -> None:
        """Another process begins."""
        self.hear()
        self.ready, self.why = False, None

    def hear(self) -> None:
        """Read what was said so far."""
        with suppress(BlockingIOError):
            while True:
                key, _, value = self._socket.recv(MOST).decode(errors="replace").partition("=")
                if key == "READY":
                    self.ready = True
                elif key == "STATUS":
                    self.why = value

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)
