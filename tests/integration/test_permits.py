"""Permits against real Redis and real Celery workers in processes of their own: one wakes all, a flood is shared."""

from __future__ import annotations

import queue as stdlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import redis
from sqlalchemy import func, select

from tests.factories import queue_run
from worker import queue, wakes
from worker.queue import Publisher, coalesced
from worker.store.models import Run

PROFILE = "small-24b"
PERMIT = wakes.permit(PROFILE)
PATIENCE = 60.0  # seconds; a slow machine is not what is tested

pytestmark = pytest.mark.xdist_group("serial")


class Worker:
    """A process of tests/gated_worker.py, and the words it said."""

    def __init__(self, store, redis_url: str, *, slots: int, room: int) -> None:
        url = store.engine.url.render_as_string(hide_password=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gated_worker", url, redis_url, str(slots), str(room)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._words: stdlib.Queue[str] = stdlib.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.said: list[str] = []

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._words.put(line.strip())

    def hear(self, word: str, count: int = 1) -> None:
        """Wait until it said `word` so often altogether."""
        while self.said.count(word) < count:
            self.said.append(self._words.get(timeout=PATIENCE))

    def drain(self) -> list[str]:
        with suppress(stdlib.Empty):
            while True:
                self.said.append(self._words.get_nowait())
        return self.said

    def tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def start(store, redis_url) -> Iterator:
    with ExitStack() as stack:

        def made(**kwargs) -> Worker:
            worker = Worker(store, redis_url, **kwargs)
            stack.callback(worker.close)
            return worker

        yield made


def queued(store, count: int, *, first: int = 1) -> None:
    with store.transaction() as session:
        for number in range(first, first + count):
            queue_run(session, number, repository=f"acme/{number % 7}")


def send(redis_url: str, count: int = 1) -> None:
    app = queue.make_app(redis_url)
    with app.connection_for_write() as connection:
        for _ in range(count):
            app.send_task(PERMIT.task, queue=PERMIT.queue, connection=connection)
    app.close()


def waiting(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return client.llen(PERMIT.queue)


def test_one_permit_wakes_all_idle_slots_and_drains_the_queue(store, redis_url, start):
    worker = start(slots=8, room=8)
    worker.hear("ready")
    queued(store, 20)
    send(redis_url)
    worker.hear("claimed", 8)
    for _ in range(12):
        worker.tell("end")
    worker.hear("claimed", 20)


def test_a_flood_of_permits_is_not_swallowed_by_a_busy_worker(store, redis_url, start):
    """Red without the gate at the consumer: the busy worker takes and passes on hundreds."""
    queued(store, 12)
    busy = start(slots=6, room=2)
    busy.hear("ready")
    send(redis_url, 500)
    busy.hear("claimed", 2)
    idle = start(slots=4, room=4)
    idle.hear("ready")
    began = time.monotonic()
    idle.hear("claimed", 4)
    print(f"the idle worker had its share after {1000 * (time.monotonic() - began):.0f} ms")
    # What was on its way while there was room is handed on; after that nothing is taken.
    assert busy.drain().count("claimed") == 2
    assert busy.said.count("passed on") <= 6
    assert waiting(redis_url) >= 480


def test_a_permit_that_was_on_its_way_when_the_gate_closed_is_passed_on(store, redis_url, start):
    busy = start(slots=4, room=1)
    busy.hear("ready")
    queued(store, 3)
    send(redis_url)
    busy.hear("claimed")
    send(redis_url)  # perhaps answered at once: Redis was asked while there was room
    idle = start(slots=1, room=1)
    idle.hear("claimed")
    assert busy.drain().count("claimed") == 1


def test_room_that_comes_back_is_used_at_once(store, redis_url, start):
    worker = start(slots=4, room=1)
    worker.hear("ready")
    queued(store, 2)
    send(redis_url, 20)
    worker.hear("claimed")
    began = time.monotonic()
    worker.tell("room 2")
    worker.hear("claimed", 2)
    print(f"room was used after {1000 * (time.monotonic() - began):.0f} ms")


def test_permits_are_coalesced_by_profile():
    other = wakes.permit("large-123b")
    run_id = wakes.verify(__import__("uuid").uuid4())
    assert coalesced([PERMIT, run_id, PERMIT, other, run_id, PERMIT]) == [PERMIT, run_id, other, run_id]


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """It accepts connections and never answers: (its Redis URL, set once somebody connected)."""
    connected = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    stack.enter_context(server.accept()[0])
                    connected.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0", connected
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_redis_that_hangs_blocks_nobody_who_sends(caplog):
    with silent_server() as (url, connected):
        publisher = Publisher(queue.make_app(url), limit=10_000)
        publisher.send(PERMIT)
        assert connected.wait(PATIENCE)
        began = time.monotonic()
        for _ in range(10_500):  # its thread is stuck with the first
            publisher.send(PERMIT)
        assert time.monotonic() - began < 5
        dropped = [record for record in caplog.records if record.message == "wake_dropped"]
        assert len(dropped) == 500, "the bound holds"
        began = time.monotonic()
        publisher.close(timeout=0.1)
        assert time.monotonic() - began < 5, "nor does a full queue block the end"


def test_the_longest_queue_is_still_one_message(store, redis_url):
    queued(store, 50)
    publisher = Publisher(queue.make_app(redis_url))
    for _ in range(50):
        publisher.send(PERMIT)
    publisher.close()
    assert 1 <= waiting(redis_url) <= 3
    with store.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 50
