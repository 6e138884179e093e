"""A GPU worker's process for tests: real Celery, real claims, real gates; a run lasts until it is told to end.

Arguments: database URL, Redis URL, slots, token capacity (1 a run). On standard input, a word a line: `end` (one run),
`room N` (the capacity from now on). On standard output: `ready`, `claimed`, `passed on`.
"""

from __future__ import annotations

import os
import queue as stdlib
import sys
import threading
from types import SimpleNamespace

from agent.types import Limits
from worker import consumption, queue, wakes
from worker.gates import TokenGate
from worker.heartbeat import Heartbeat
from worker.stages.pursue import Pursue
from worker.store.session import Store
from worker.tasks import register

PROFILE = "small-24b"


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def main(database_url: str, redis_url: str, slots: int, capacity: int) -> None:
    room, ends = [capacity], stdlib.Queue[None]()
    tokens = TokenGate(lambda: room[0], expected=1)
    store = Store(database_url, pool_size=slots)
    app = queue.make_app(redis_url)
    publisher = queue.Publisher(app, pause=queue.SHORT_PAUSE)

    class Told(Pursue):
        def _pursue(self, lease, holding):
            say("claimed")
            ends.get()
            return True

        def _pass_on(self):
            if not self.admission.room():
                say("passed on")
            super()._pass_on()

    unused = None
    pursue = Told(
        store=store,
        heartbeat=Heartbeat(store, seconds=60),
        solver=SimpleNamespace(model=SimpleNamespace(alive=True), limits=Limits()),
        repositories=unused,
        layers=unused,
        send=publisher.send,
        profile=PROFILE,
        lease_seconds=60,
        stopping=threading.Event(),
        admission=tokens,
        repository_slots=1000,
    )
    register(app, {wakes.PURSUE: pursue})
    consumption.install(app, [tokens], connected=lambda: say("ready"))

    def listen() -> None:
        for line in sys.stdin:
            word, *number = line.split()
            if word == "end":
                ends.put(None)
            elif word == "room":
                room[0] = int(number[0])
                tokens._room.tell()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    app.Worker(
        pool="threads",
        concurrency=slots,
        queues=[wakes.gpu_queue(PROFILE)],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    ).start()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
