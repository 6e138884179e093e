"""A backlog of sweeps is one sweep, whatever the clocks of beat and worker say."""

from __future__ import annotations

from worker import queue
from worker.paced import Paced


def test_a_backlog_is_worked_off_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("worker.paced.time.monotonic", lambda: now[0])
    done = []
    paced = Paced(lambda: done.append(now[0]), 5)
    for _ in range(1000):
        paced()
    now[0] = 104.9
    paced()
    assert done == [100.0]
    now[0] = 105.0
    paced()
    assert done == [100.0, 105.0]


def test_no_message_of_beat_expires():
    """An expiry is a time of beat's machine, judged by the clock of another."""
    app = queue.make_app("redis://127.0.0.1:1/0")
    assert app.conf.beat_schedule
    assert all(entry["options"] == {"queue": "default"} for entry in app.conf.beat_schedule.values())
