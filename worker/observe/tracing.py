"""OpenTelemetry traces from webhook to pull request; off unless an endpoint is set.

A run's stages happen in different processes and are woken by messages that name no run, so the trace's context is
kept in the rows (`traceparent` of a delivery and of a run) and not in the messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.errors import SettingsError

SERVICE = "devstral-fix"
Attribute = str | int | float | bool
_PROPAGATOR = TraceContextTextMapPropagator()


class Recording(Protocol):
    def set(self, **attributes: Attribute | None) -> None: ...

    @property
    def traceparent(self) -> str | None:
        """W3C's text for this span, to be kept with a row; None when nothing is traced."""


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, **attributes: Attribute | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"devstral_fix.{name}", value)

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")


class Tracing:
    """One per process. Without a provider every span is a no-op of about a microsecond."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider or NoOpTracerProvider()
        self._tracer = self._provider.get_tracer(SERVICE)

    @classmethod
    def to(cls, endpoint: str | None, *, role: str) -> Tracing:
        """Traces sent in batches to an OTLP/HTTP collector at `endpoint` (its base URL); None: off."""
        if endpoint is None:
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider as SdkProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

            from worker.observe.exporting import Telling  # noqa: PLC0415
        except ImportError as error:
            raise SettingsError(
                "DEVSTRAL_FIX_OTLP_ENDPOINT is set, but what sends traces is not installed: "
                "pip install 'devstral-fix[tracing]'"
            ) from error
        provider = SdkProvider(resource=Resource.create({"service.name": SERVICE, "devstral_fix.role": role}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(Telling(exporter)))
        return cls(provider)

    @contextmanager
    def span(
        self, name: str, *, parent: str | None = None, server: bool = False, **attributes: Attribute | None
    ) -> Iterator[Recording]:
        """A span around the block: below `parent` (a traceparent) where one is given, else below the span this thread
        is in. An exception marks it as failed, by its type alone: messages may quote strangers."""
        context = _PROPAGATOR.extract({"traceparent": parent}) if parent else None
        kind = SpanKind.SERVER if server else SpanKind.INTERNAL
        with self._tracer.start_as_current_span(
            name, context=context, kind=kind, record_exception=False, set_status_on_exception=False
        ) as span:
            recording = _Span(span)
            recording.set(**attributes)
            try:
                yield recording
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def past(self, name: str, seconds: float, *, ago: float = 0.0, **attributes: Attribute | None) -> None:
        """A span that ended `ago` seconds before now and took `seconds`, below the span this thread is in."""
        end = time.time_ns() - int(ago * 1e9)
        span = self._tracer.start_span(name, start_time=end - int(seconds * 1e9))
        _Span(span).set(**attributes)
        span.end(end)

    def close(self) -> None:
        """Send what is waiting; a collector that is away costs a few seconds, not more."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            shutdown()
