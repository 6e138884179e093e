"""What of an engine that did not start is told: the cause, by the process that knows it."""

from __future__ import annotations

import logging
import os

import pytest

from worker.adapters.engine import causes


@pytest.fixture
def log():
    """vLLM's logger, as it is without us."""
    log = logging.getLogger("vllm")
    before = list(log.handlers), log.propagate
    log.propagate = False
    log.handlers[:] = [logging.NullHandler()]
    yield log
    log.handlers[:], log.propagate = before


def test_the_first_cause_is_heard_as_one_line(log):
    with causes.heard() as path:
        assert causes.first(path) is None
        causes.tell()
        log.error("without a reason")
        for error in (ValueError("no block size\nfor 16"), RuntimeError("a process has ended")):
            try:
                raise error
            except Exception:
                log.exception("failed to start")
        assert causes.first(path) == "ValueError: no block size for 16"
    assert causes.VARIABLE not in os.environ
    assert not path.exists()
    log.error("nobody listens any more", exc_info=ValueError())


def test_a_process_that_nobody_asked_tells_nothing(log):
    before = list(log.handlers)
    causes.tell()
    assert log.handlers == before


@pytest.mark.parametrize(
    ("cause", "passing"),
    [
        ("ValueError: No common block size for 16", False),
        ("NotImplementedError: no such quantization", False),
        ("ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired", True),
        ("OutOfMemoryError: CUDA out of memory", True),
        ("RuntimeError: Engine core initialization failed", True),
        ("", True),
    ],
)
def test_only_what_lies_in_the_options_is_not_tried_again(cause, passing):
    assert causes.may_pass(cause) is passing
