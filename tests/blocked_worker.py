"""A GPU worker's process whose model never comes up: as an engine does, it has started a process, and that one another,
when the main thread waits. Settings come from the environment. On standard output: the ids of both processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

from worker import compose
from worker.settings import Settings
from worker.work import work


def engine(say) -> None:
    """Not a daemon, so Python would wait for it at its own end; deaf to a polite request, as a process in a driver."""
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    worker.start()
    say.send((os.getpid(), worker.pid))
    time.sleep(600)


def never(*_, **__):
    heard, say = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=engine, args=(say,)).start()
    os.write(1, f"{' '.join(map(str, heard.recv()))}\n".encode())
    threading.Event().wait()


if __name__ == "__main__":
    compose.make_model = never
    raise SystemExit(work(Settings.load(), "gpu"))
