"""Run in a network namespace of its own, as root: a veth pair to a second one, and what reaches over it.

Prints what the service's own namespace, a sandbox, and a sandbox without `--unshare-net` got. Exit 77: no veth here.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from agent.protocols import Isolation
from tests.attacks.probes import inside, outside
from tests.sandboxes import place
from worker.adapters.sandbox import command

HERE, THERE, PORT = "198.18.0.1", "198.18.0.2", 7007  # the range for tests of devices; in our namespaces only
SEND = """
import errno, socket, sys
kind, address, port = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(10)
try:
    s.connect((address, int(port)))
    s.send(b"x")
    print("open")
except OSError as e: print(errno.errorcode.get(e.errno, str(e)))
"""


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        sys.exit(77)


def neighbour() -> subprocess.Popen[bytes]:
    """A process in a second namespace: it listens once its side of the pair has an address."""
    code = (
        "import socket, sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
        f"s = socket.create_server(('{THERE}', {PORT})); sys.stdout.write('ready\\n'); sys.stdout.flush()\n"
        "sys.stdin.readline()"
    )
    argv = ["unshare", "--net", "--kill-child", sys.executable, "-I", "-c", code]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def main(folder: Path, level: Isolation) -> None:
    with neighbour() as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            ip("link", "set", "lo", "up")
            ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(other.pid))
            ip("address", "add", f"{HERE}/30", "dev", "near")
            ip("link", "set", "near", "up")
            for words in (["address", "add", f"{THERE}/30", "dev", "far"], ["link", "set", "far", "up"]):
                subprocess.run(["nsenter", f"--net=/proc/{other.pid}/ns/net", "ip", *words], check=True)
            other.stdin.write(b"\n")
            other.stdin.flush()
            assert other.stdout.readline() == b"ready\n"
            box = place(folder / "place", isolation=level)
            said: dict[str, dict[str, str]] = {"outside": {}, "inside": {}, "without": {}}
            for kind in ("tcp", "udp"):
                said["outside"][kind] = outside(SEND, kind, THERE, PORT)
            with box.session() as session:
                for kind in ("tcp", "udp"):
                    said["inside"][kind] = inside(session, SEND, kind, THERE, PORT)
            groups = command.hardening()
            del groups["net"]
            command.hardening = lambda: groups
            with box.session() as session:
                for kind in ("tcp", "udp"):
                    said["without"][kind] = inside(session, SEND, kind, THERE, PORT)
            print(json.dumps(said))
        finally:
            other.stdin.close()


if __name__ == "__main__":
    assert os.geteuid() == 0
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "not in a namespace of its own"
    main(Path(sys.argv[1]), Isolation(sys.argv[2]))
