"""What operators see of a process: metrics, traces. Nothing here decides anything, and nothing here may fail a run."""

from worker.observe.metrics import Metrics
from worker.observe.tracing import Tracing
from worker.observe.watch import Watch

__all__ = ["Metrics", "Tracing", "Watch"]
