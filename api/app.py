"""The HTTP edge: webhooks in, health and runs out. FastAPI stays in this file."""

from __future__ import annotations

import gc
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from api import views, webhooks
from api.events import Names
from worker import logs, queue, readiness, wakes
from worker.errors import Transient
from worker.observe import Tracing
from worker.observe.exposition import exposed
from worker.observe.live import Cancelled, Live, Queue, deliveries
from worker.queue import Publisher
from worker.settings import Settings
from worker.store import queries
from worker.store.models import DeliveryState
from worker.store.session import DatabaseUnavailable, Store

log = logging.getLogger(__name__)

THREADS = 6


class Receiver:
    """Stores a verified delivery and wakes the queue after the commit; nothing else happens on the request path."""

    def __init__(self, store: Store, send: Callable[[wakes.Wake], None], tracing: Tracing | None = None) -> None:
        self._store = store
        self._tracing = tracing or Tracing()
        self._send = send

    def receive(self, received: webhooks.Received) -> bool:
        """True when the delivery is new. A repeated one (same GUID) changes nothing."""
        for last in (False, True):
            try:
                with self._tracing.span("webhook", server=True, event=received.event, guid=received.guid) as span:
                    return self._insert(received, span.traceparent)
            except DatabaseUnavailable:
                # A connection that died in the pool shows only when it is used; inserting again is harmless.
                if last:
                    raise
        raise AssertionError("unreachable")

    def _insert(self, received: webhooks.Received, traceparent: str | None) -> bool:
        request = received.request
        state = DeliveryState.IGNORED if request is None else DeliveryState.RECEIVED
        with self._store.connection() as connection:
            delivery_id = queries.insert_delivery(
                connection,
                key=received.guid,
                event=received.event,
                action=received.action,
                repository=None if request is None else request.repository,
                issue_number=None if request is None else request.issue_number,
                sender=None if request is None else request.sender,
                body_sha256=received.body_sha256,
                request=None if request is None else request.model_dump(mode="json"),
                traceparent=traceparent,
                state=state,
                reason=received.ignored_reason,
            )
        if delivery_id is not None and state is DeliveryState.RECEIVED:
            self._send(wakes.intake())
        return delivery_id is not None


async def capped_body(request: Request, limit: int) -> bytes:
    """The raw body, refused with 413 before it is read where its length is told, else as soon as it exceeds."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise HTTPException(413, f"the body is larger than {limit} bytes")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise HTTPException(413, f"the body is larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def bearer(token: str | None) -> Callable[[str | None], None]:
    """A dependency that admits `Authorization: Bearer <token>`; without a token set, the API is off."""

    def check(authorization: Annotated[str | None, Header()] = None) -> None:
        if not token:
            raise HTTPException(404, "the API is off: DEVSTRAL_FIX_API_TOKEN is not set")
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})

    return check


def create_app() -> FastAPI:
    """Uvicorn's factory: settings are read here, once."""
    settings = Settings.load()
    logs.configure(settings.log_level)
    return build(settings)


def build(settings: Settings) -> FastAPI:
    """The application for given settings; connections are opened when it starts and closed when it stops."""
    store = Store(settings.need("database_url"), pre_ping=False)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        publisher = Publisher(queue.make_app(settings.need("redis_url")))
        tracing = Tracing.to(settings.otlp_endpoint, role="api")
        registry = CollectorRegistry()
        registry.register(Live(store, [Queue(settings.profile), Cancelled(), deliveries]))
        app.state.receiver = Receiver(store, publisher.send, tracing)
        # No more threads than connections that are open: a burst waits for neither.
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await run_in_threadpool(store.warm, THREADS)
        gc.freeze()  # what was imported lives for ever; the collector need not look at it again
        with exposed(registry, settings.metrics_listen):
            readiness.ready()
            yield
        tracing.close()
        publisher.close()
        store.close()

    app = FastAPI(title="devstral-fix", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    add_routes(app, store, settings)
    return app


def _secrets(settings: Settings) -> list[bytes]:
    """What a webhook may be signed with, the newest first: two while the secret is being rotated."""
    if settings.webhook_secret is None:
        return []
    known = (settings.webhook_secret, settings.webhook_secret_previous)
    return [secret.get_secret_value().encode() for secret in known if secret is not None]


def _parsed(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[bytes], names: Names
) -> webhooks.Received | webhooks.Rejected:
    """By the first secret that it is signed with."""
    for secret in secrets[:-1]:
        parsed = webhooks.parse(headers, body, secret=secret, names=names)
        if not (isinstance(parsed, webhooks.Rejected) and parsed.status == 401):
            return parsed
    return webhooks.parse(headers, body, secret=secrets[-1], names=names)


def add_routes(app: FastAPI, store: Store, settings: Settings) -> None:
    secrets = _secrets(settings)
    token = settings.api_token.get_secret_value() if settings.api_token else None
    names = Names(trigger_label=settings.trigger_label, mention=settings.mention)

    @app.exception_handler(Transient)
    def unavailable(_: Request, error: Exception) -> Response:
        log.error("unavailable", extra={"why": str(error)})
        return JSONResponse({"detail": "temporarily unavailable"}, 503, headers={"Retry-After": "5"})

    async def github(request: Request) -> Response:
        if not secrets:
            raise HTTPException(404, "webhooks are off: DEVSTRAL_FIX_WEBHOOK_SECRET is not set")
        body = await capped_body(request, settings.webhook_max_bytes)
        return await run_in_threadpool(accept, request.headers, body)

    def accept(headers: Mapping[str, str], body: bytes) -> Response:
        parsed = _parsed(headers, body, secrets, names)
        if isinstance(parsed, webhooks.Rejected):
            raise HTTPException(parsed.status, parsed.message)
        created = app.state.receiver.receive(parsed)
        return JSONResponse({"delivery": parsed.guid, "new": created, "ignored": parsed.ignored_reason}, 202)

    # Starlette's own route: FastAPI would look for parameters and validate answers, of which there are none.
    app.add_route("/webhooks/github", github, methods=["POST"])

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        with store.transaction() as session:
            session.execute(text("SELECT 1 FROM runs LIMIT 1"))
        return {"status": "ready"}

    @app.get("/api/v1/runs/{run_id}", dependencies=[Depends(bearer(token))])
    def run(run_id: UUID) -> dict[str, Any]:
        with store.transaction() as session:
            found = views.run(session, run_id)
        if found is None:
            raise HTTPException(404, "there is no such run")
        return found
