"""What a trajectory that waits for its model costs the worker: resident memory of this process, and nothing else's.

Each one is a conversation of 100,000 tokens, its call in flight at a server (another process) that reads the request
and never answers, and a thread that waits; that is what a GPU worker holds per trajectory besides its sandbox.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from threading import Event

from agent.tokens import TokenCounter
from agent.types import Sampling, UserMessage
from worker.adapters.models import open_model
from worker.bench.records import Figure, figure

TOKENS, COUNT = 100_000, 24
# Reads requests whole, writes a line for each, answers none.
SILENT_SERVER = """
import asyncio, re, sys

async def serve(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    length = int(re.search(rb"content-length: (\\d+)", head.lower())[1])
    await reader.readexactly(length)
    print(length, flush=True)
    await reader.read()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 26)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def text(tokens: int, seed: int) -> str:
    """About `tokens` tokens of source-like text, different for each seed so that nothing is shared."""
    chosen = random.Random(seed)  # noqa: S311 - filler
    words = [f"{a}_{b}" for a in ("wrap", "line", "parse", "token", "index", "value") for b in ("of", "to", "in", "at")]
    lines: list[str] = []
    while len(lines) * 12 < tokens:
        lines.append(f"    {chosen.choice(words)} = {chosen.choice(words)}({chosen.randrange(10**6)})")
    return "\n".join(lines)


def waiting_trajectories(command: str) -> list[Figure]:
    server = subprocess.Popen([sys.executable, "-c", SILENT_SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    cancel = Event()
    try:
        port = int(server.stdout.readline())
        counter = TokenCounter(None)
        model = open_model(f"openai:http://127.0.0.1:{port}/v1#silent", counter=counter, allow_remote=(), api_key=None)
        threads: list[threading.Thread] = []
        held: list[int] = []
        sent = 0

        def start(seed: int) -> None:
            conversation = model.open("", ())
            # One message: several of the user's in a row would be merged, and counted anew each time.
            conversation.add([UserMessage(content=text(TOKENS, seed))])
            held.append(conversation.tokens)
            deadline = time.monotonic() + 600

            def wait() -> None:
                conversation.complete(Sampling(), deadline=deadline, cancel=cancel)
                conversation.close()

            thread = threading.Thread(target=wait)
            thread.start()
            threads.append(thread)

        for seed in range(4):  # the pools, the client and the vocabulary are there before anything is measured
            start(seed)
            sent = int(server.stdout.readline())
        before = resident()
        for seed in range(4, 4 + COUNT):
            start(seed)
            sent = int(server.stdout.readline())
        each = (resident() - before) / COUNT / 2**20
    finally:
        cancel.set()
        for thread in threads:
            thread.join()
        server.kill()
        server.wait()
    mean = sum(held) / len(held)
    per_100k = each * TOKENS / mean
    return [
        figure("waiting trajectory of 100k tokens, resident", per_100k, "MB", goal=3, command=command),
        figure("its request to the model server", sent / 2**20, "MB", goal=None, command=command),
    ]
