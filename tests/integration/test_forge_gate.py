"""The gate in a real Redis: what one worker uses up or is told holds for all, and what happens without it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest
import redis

from worker.adapters.embedded import RedisServer
from worker.adapters.forge.gate import Gate, GateShut, Price, Rates
from worker.adapters.forge.redis_windows import PREFIX

READ, WRITE = Price(points=1, content=False), Price(points=5, content=True)
RATES = Rates(content_per_minute=40, content_per_hour=0, points_per_minute=0)


def entered(gate: Gate, account: str = "installation:1") -> bool:
    try:
        gate.enter(account, WRITE)
    except GateShut:
        return False
    return True


def test_workers_together_enter_exactly_as_often_as_one(redis_url: str) -> None:
    gates = [Gate(RATES, redis_url=redis_url, max_wait=0) for _ in range(4)]
    counts = [0] * len(gates)

    def work(mine: int) -> None:
        counts[mine] = sum(entered(gates[mine]) for _ in range(30))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(gates))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 40
    assert entered(gates[0], "installation:2")
    for gate in gates:
        gate.close()


def test_another_process_counts_too(redis_url: str) -> None:
    program = (
        "import sys; from worker.adapters.forge.gate import Gate, Price, Rates\n"
        "gate = Gate(Rates(content_per_minute=40, content_per_hour=0, points_per_minute=0), redis_url=sys.argv[1])\n"
        "for _ in range(39): gate.enter('installation:1', Price(points=5, content=True))\n"
        "gate.shut('installation:3', 60)\n"
    )
    subprocess.run([sys.executable, "-c", program, redis_url], check=True)
    gate = Gate(RATES, redis_url=redis_url, max_wait=0)
    assert entered(gate)
    assert not entered(gate)
    assert not entered(gate, "installation:3")
    gate.close()


def test_a_shut_gate_is_shut_for_all_and_only_ever_later(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    told, other = (Gate(Rates(), redis_url=redis_url, max_wait=0) for _ in range(2))
    told.shut("a", 30)
    told.shut("a", 5)
    with pytest.raises(GateShut) as shut:
        other.enter("a", READ)
    assert shut.value.retry_after == pytest.approx(30, abs=1)
    told.shut("a", 50)
    with pytest.raises(GateShut) as shut:
        other.enter("a", READ)
    assert shut.value.retry_after == pytest.approx(50, abs=1)
    other.enter("b", READ)
    told.shut("b", 40, "graphql")
    other.enter("b", READ, "core")
    with pytest.raises(GateShut):
        other.enter("b", READ, "graphql")
    assert "without_redis" not in caplog.text
    told.close()
    other.close()


def test_nothing_stays_in_redis_for_good(redis_url: str) -> None:
    gate = Gate(Rates(), redis_url=redis_url)
    gate.enter("a", WRITE)
    gate.shut("a", 3)
    with redis.Redis.from_url(redis_url) as client:
        keys = list(client.scan_iter(f"{PREFIX}:*"))
        assert len(keys) == 4
        assert all(0 < client.ttl(key) <= 3600 for key in keys)
    gate.close()


def test_without_redis_the_limits_hold_in_this_process(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    gone = redis_server.url.rsplit(":", 1)[0] + ":9/0"
    gate = Gate(RATES, redis_url=gone, max_wait=0)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert sum(entered(gate) for _ in range(60)) == 40
    assert time.monotonic() - started < 5  # it is not asked again each time
    assert [r.message for r in caplog.records] == ["github_limits_without_redis"]
    assert "password" not in caplog.text
    gate.shut("b", 30)
    assert not entered(gate, "b")
    gate.close()
