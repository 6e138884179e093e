"""How far a set-up gets beyond what a layer may hold, before it is ended: by bytes, and by files."""

from __future__ import annotations

import os
from threading import Event

import pytest

from agent.protocols import ExecStatus, Isolation, SandboxSpec
from tests.sandboxes import Place, place
from worker.adapters.layers import DiskLayers
from worker.adapters.layers.content import size
from worker.adapters.layers.gauge import Gauge
from worker.errors import IsolationMissing
from worker.stages.setup import SETUP_LIMITS, watched

KEY = "a" * 64
LARGEST = 64 << 20
BYTES = "dd if=/dev/zero of=/opt/setup/one bs=1M & dd if=/dev/zero of=/opt/setup/two bs=1M & wait"
FILES = """
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
number = 0
while True:
    os.close(os.open(str(number), os.O_CREAT))
    number += 1
"""


@pytest.fixture(scope="module", params=list(Isolation))
def sandboxes(request, tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("quota")
    try:
        return place(folder, isolation=request.param, cgroup=os.environ.get("TEST_CGROUP"))
    except IsolationMissing as e:
        pytest.skip(f"{request.param.value} can't be had here: {e}")


def filled(sandboxes: Place, layers: DiskLayers, script: str) -> tuple[int, float]:
    """Bytes that were there when a set-up that only fills its layer had been ended, and seconds that it ran."""
    for _ in range(5):  # other tests write to the same disk, which ends one too early now and then
        with layers.draft(KEY) as draft:
            assert draft is not None
            spec = SandboxSpec(
                git_dir=sandboxes.git_dir, tree=sandboxes.commit, limits=SETUP_LIMITS, mounts=(draft.mount,)
            )
            session = sandboxes.sandbox.open(spec)
            try:
                with watched(draft, Event()) as suspected:
                    done = session.exec(["sh", "-c", script], timeout=120, cancel=suspected)
            finally:
                session.close()
            assert done.status is ExecStatus.CANCELLED
            if draft.too_large:
                return size(draft.folder), done.seconds
    pytest.skip("others fill this disk")


def test_of_bytes(sandboxes, quiet_disk):
    """At most what it writes in a second."""
    held, seconds = filled(sandboxes, DiskLayers(quiet_disk, largest=LARGEST), BYTES)
    print(f"\nbytes: {held >> 20} MiB at a limit of {LARGEST >> 20} MiB, after {seconds:.2f} s")
    assert held - LARGEST < held / seconds


def test_of_files(sandboxes, quiet_disk):
    script = f"for n in 1 2; do python3 -I -c '{FILES}' /opt/setup/$n & done; wait"
    held, seconds = filled(sandboxes, DiskLayers(quiet_disk, largest=LARGEST), script)
    print(f"\nfiles: {held // 4096} at a limit of {LARGEST // 4096}, after {seconds:.2f} s")
    assert held - LARGEST < 6 * held / seconds  # counting takes its time on a busy machine


def test_counting_goes_on_while_the_disk_says_nothing(tmp_path):
    gauge = Gauge(tmp_path, 1 << 20, 0)
    for number in range(300):
        (tmp_path / str(number)).touch()
    gauge._next = 0.0
    assert gauge.exceeded()


def test_with_little_left_on_the_disk_nothing_may_be_made(tmp_path):
    assert not Gauge(tmp_path, 1 << 40, 0).exceeded()
    assert Gauge(tmp_path, 1 << 40, 1 << 60).exceeded()


def test_whoever_can_not_watch_ends_it():
    class Broken:
        @property
        def suspect(self) -> bool:
            raise OSError("no such folder")

    with watched(Broken(), Event()) as suspected:
        assert suspected.wait(30)
