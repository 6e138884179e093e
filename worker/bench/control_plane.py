"""`make bench-control-plane`: webhook latency under load, and how soon a committed run is claimed. All on loopback."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import func, select

from worker.bench import claims, records, recovery, waiting
from worker.bench.records import Figure, figure, percentile
from worker.demo.watch import Progress
from worker.servers import Servers
from worker.settings import PREFIX
from worker.store.models import Delivery
from worker.store.session import Store
from worker.supervisor import Child, Supervisor
from worker.up import embedded_servers, free_port

COMMAND = "make bench-control-plane"
SECRET = "bench"  # noqa: S105 - a loopback server's, for a minute
SLOTS = 8
RATE, SECONDS, CONNECTIONS = 200, 6, 8
BURST, BURST_SECONDS = 400, 2.0


def payload(number: int, *, size: int = 15_000) -> bytes:
    """An `issues.labeled` event of the usual size."""
    event = {
        "action": "labeled",
        "label": {"name": "devstral-fix"},
        "issue": {
            "number": number,
            "title": "bench",
            "body": "x" * size,
            "html_url": f"http://127.0.0.1/acme/bench/issues/{number}",
            "state": "open",
        },
        "repository": {"full_name": "acme/bench"},
        "installation": {"id": 1},
        "sender": {"login": "bench", "type": "User"},
    }
    return json.dumps(event).encode()


def headers(body: bytes) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "issues",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest(),
    }


def load(port: int, *, total: int, rate: float) -> tuple[list[float], list[int]]:
    """Send `total` deliveries, evenly paced at `rate` a second over a few connections: (seconds each, statuses).

    Latency counts from the moment a request was due, so a server that stalls can't hide it.
    """
    per_connection = total // CONNECTIONS
    bodies = [payload(number) for number in range(1, total + 1)]
    requests_sent = [(body, headers(body)) for body in bodies]  # signed before the clock runs: GitHub's work, not ours
    start = time.monotonic() + 0.2

    def run(lane: int) -> list[tuple[float, int]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        results = []
        for i in range(per_connection):
            body, sent_headers = requests_sent[lane * per_connection + i]
            due = start + (i * CONNECTIONS + lane) / rate
            time.sleep(max(0.0, due - time.monotonic()))
            connection.request("POST", "/webhooks/github", body, sent_headers)
            response = connection.getresponse()
            response.read()
            results.append((time.monotonic() - due, response.status))
        connection.close()
        return results

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = [answer for lane in pool.map(run, range(CONNECTIONS)) for answer in lane]
    return [seconds for seconds, _ in answers], [status for _, status in answers]


def webhooks(port: int, store: Store) -> list[Figure]:
    load(port, total=80, rate=40)  # warm connections, pools and code
    latencies, statuses = load(port, total=RATE * SECONDS, rate=RATE)
    milliseconds = [1000 * value for value in latencies]
    started = time.monotonic()
    _, burst_statuses = load(port, total=BURST, rate=BURST / BURST_SECONDS)
    burst_seconds = time.monotonic() - started
    with store.transaction() as session:
        stored = session.scalar(select(func.count()).select_from(Delivery)) or 0
    lost = 80 + len(statuses) + len(burst_statuses) - stored
    bad = sum(status // 100 != 2 for status in statuses + burst_statuses)
    return [
        figure(f"webhook at {RATE}/s, p50", statistics.median(milliseconds), "ms", goal=8, command=COMMAND),
        figure(f"webhook at {RATE}/s, p99", percentile(milliseconds, 0.99), "ms", goal=25, command=COMMAND),
        figure(f"webhook at {RATE}/s, max", max(milliseconds), "ms", goal=None, command=COMMAND),
        figure(f"{BURST} deliveries in {BURST_SECONDS:g} s: seconds", burst_seconds, "s", goal=None, command=COMMAND),
        figure("deliveries not answered 2xx", bad, "deliveries", goal=0, command=COMMAND),
        figure("deliveries answered 2xx and not stored", lost, "deliveries", goal=0, command=COMMAND),
    ]


def demo_seconds() -> list[Figure]:
    """The demo on a machine that has been set up, as one process from start to end."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "worker.cli", "demo"], capture_output=True, check=False, timeout=300)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        raise RuntimeError(f"the demo failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return [figure("make demo on a machine that is set up", seconds, "s", goal=20, command=COMMAND)]


def _environment(servers: Servers, root: Path) -> dict[str, str]:
    own = {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "DATA_DIR": str(root / "data"),
        "WEBHOOK_SECRET": SECRET,
        "MODEL": f"scripted:{Path(__file__).parents[1] / 'demo' / 'script.json'}",
        "ISOLATION": "basic",
        "GPU_SLOTS": str(SLOTS),
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return {**kept, **{PREFIX + k: v for k, v in own.items()}}


def main() -> int:
    figures = demo_seconds()
    with tempfile.TemporaryDirectory(prefix="devstral-fix-bench-") as name, ExitStack() as stack:
        root = Path(name)
        root.chmod(0o711)
        servers = stack.enter_context(embedded_servers(root / "servers"))
        store = Store(servers.database_url, pool_size=claims.THREADS)
        stack.callback(store.close)
        env, port = _environment(servers, root), free_port()
        with Supervisor([Child("gpu", ["work", "--role", "gpu"], root / "gpu.log")], env=env, cwd=root, grace=10):
            figures += claims.idle_and_burst(store, servers.redis_url, command=COMMAND, slots=SLOTS)
        figures += recovery.after_a_kill(store, servers.redis_url, root, env, command=COMMAND)
        with (
            Supervisor([Child("api", ["serve", "--port", str(port)], root / "api.log")], env=env, cwd=root, grace=10),
            Progress() as progress,
        ):
            progress.wait_for_api(port)
            figures += webhooks(port, store)
        for repositories in (50, 5000):
            figures += claims.long_queue(store, repositories=repositories, command=COMMAND)
        figures += claims.at_cap(store, command=COMMAND)
    figures += waiting.waiting_trajectories(COMMAND)
    records.write("control-plane", figures)
    print(records.table(figures))
    return 0 if all(f.met is not False for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
