"""Traces whose collector is away: told once, and once more when it takes them again. Needs the extra `tracing`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
BATCHES = "opentelemetry.sdk._shared_internal"


class Telling(SpanExporter):
    """Around another exporter, whose own lines (one a try, for as long as the collector is away) are kept back."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._failing = False
        self._lost = 0
        self._why = ""
        self._filters = ((logging.getLogger(EXPORTER), self._note), (logging.getLogger(BATCHES), self._well))
        for logger, keep in self._filters:
            logger.addFilter(keep)

    def _note(self, record: logging.LogRecord) -> bool:
        self._why = record.getMessage()
        return False

    def _well(self, _: logging.LogRecord) -> bool:
        """A queue that is full says nothing new while nothing is taken from it."""
        return not self._failing

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._failing:
                log.warning("traces_sent_again", extra={"spans_lost": self._lost})
            self._failing, self._lost = False, 0
            return result
        if not self._failing:
            log.warning("traces_not_sent", extra={"why": self._why[:300]})
        self._failing = True
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()
        for logger, keep in self._filters:
            logger.removeFilter(keep)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)
