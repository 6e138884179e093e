"""Folders of set-ups whose process was killed are removed; one in use never is."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from worker.adapters.egress import HostPattern, Indexes, Policy, ProxyEgress

HOLDER = """
import sys
from pathlib import Path
from worker.adapters.egress import Indexes, Policy, ProxyEgress
with ProxyEgress(Path(sys.argv[1]), Policy(), Indexes).open() as way:
    print(way.folder.parent, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path) -> Iterator:
    """Starts a process that holds a way open; the process, and the way's folder."""
    with ExitStack() as stack:

        def start() -> tuple[subprocess.Popen[str], Path]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLDER, str(tmp_path / "egress")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=Path(__file__).resolve().parents[2],
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            return process, Path(process.stdout.readline().strip())

        yield start


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def egress(tmp_path: Path) -> ProxyEgress:
    return ProxyEgress(tmp_path / "egress", Policy(private=(HostPattern("index.test", 1),)), Indexes)


def test_at_the_start_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(holder, tmp_path):
    dead, left = holder()
    _, used = holder()
    killed(dead)
    assert (left / "shown" / "proxy.sock").exists()
    egress(tmp_path)
    assert not left.exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(used / "shown" / "proxy.sock"))  # still served


def test_the_same_whenever_a_way_is_opened(holder, tmp_path):
    ours = egress(tmp_path)
    dead, left = holder()
    killed(dead)
    with ours.open() as first, ours.open() as second:
        assert not left.exists()
        assert {path.parent for path in (first.folder, second.folder)} == set((tmp_path / "egress").glob("e-*"))
    assert list((tmp_path / "egress").glob("e-*")) == []


def test_a_folder_that_was_never_locked_goes_too(tmp_path):
    (tmp_path / "egress" / "e-half" / "shown").mkdir(parents=True)
    egress(tmp_path)
    assert not (tmp_path / "egress" / "e-half").exists()


def test_a_deep_directory_is_no_obstacle(tmp_path):
    deep = tmp_path / ("d" * 100)
    with egress(deep).open() as way:
        assert way.folder.is_relative_to(deep)
        assert (way.folder / "proxy.sock").is_socket()
