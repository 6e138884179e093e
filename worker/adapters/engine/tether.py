"""Ends an engine's processes with the worker that started them, however that ends: vLLM's would live on, and keep their
GPU memory; and has them say why they could not start. vLLM calls this in each of its processes, as a plugin of the
installed project (`vllm.general_plugins`)."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

from worker.adapters.engine import causes

_PR_SET_PDEATHSIG = 1


def tether() -> None:
    """Nothing in a process that vLLM did not start."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)
    causes.tell()
