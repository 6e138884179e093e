"""Log lines: one JSON object each, with the context of the thread, safe for a terminal."""

from __future__ import annotations

import json
import logging
import threading

from worker import logs


def line(message, **extra):
    record = logging.getLogger("t").makeRecord("t", logging.INFO, __file__, 1, message, (), None, extra=extra)
    return logs.JsonFormatter().format(record)


def test_fields_and_context_are_in_the_line():
    with logs.bound(run_id="r1"):
        with logs.bound(step=2):
            inner = json.loads(line("run_advanced", to="queued"))
        outer = json.loads(line("run_advanced"))
    assert (inner["event"], inner["run_id"], inner["step"], inner["to"]) == ("run_advanced", "r1", "2", "queued")
    assert "step" not in outer
    assert "run_id" not in json.loads(line("x"))


def test_threads_do_not_share_a_context():
    seen = []
    with logs.bound(run_id="r1"):
        thread = threading.Thread(target=lambda: seen.append(json.loads(line("x"))))
        thread.start()
        thread.join()
    assert "run_id" not in seen[0]


def test_control_characters_reach_no_terminal():
    text = line("x", why="\x1b]52;c;aGk=\x07\r\n\u202e")
    assert text.isascii()
    assert "\x1b" not in text
    assert "\n" not in text
    assert json.loads(text)["why"].startswith("\x1b]52")


def test_an_exception_is_one_field():
    try:
        raise ValueError("no")
    except ValueError:
        import sys

        record = logging.getLogger("t").makeRecord("t", logging.ERROR, __file__, 1, "boom", (), sys.exc_info())
    assert "ValueError: no" in json.loads(logs.JsonFormatter().format(record))["exception"]
