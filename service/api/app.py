"""The application: settings in, ASGI app out. Nothing happens on import."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import service
from service import artifacts, keys, predictions, uploads
from service.api import (
    bundles,
    classify,
    datasets,
    differences,
    growth,
    health,
    inference_protocol,
    jobs,
    models,
    problems,
    registry,
    shadows,
    torchserve,
    web,
)
from service.api import keys as key_routes
from service.api import predictions as prediction_routes
from service.api import session as session_routes
from service.api import uploads as upload_routes
from service.api.examples import PROBLEMS
from service.db import Database
from service.db.migrate import upgrade
from service.db.tables import DatasetVersion
from service.errors import PayloadTooLarge
from service.ids import new_id
from service.inference.engine import Engine
from service.mirror import Mirror
from service.settings import Settings

log = logging.getLogger(__name__)
SWEEP_SECONDS = 600.0
DESCRIPTION = "Upload labelled pictures, train a network, classify. Errors are `application/problem+json`."


def create_app(settings: Settings) -> FastAPI:
    """The service over one data folder. Migrates the database and makes the admin key when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        prepare(app.state.database, settings)
        app.state.engine = Engine(settings)
        app.state.mirror = Mirror(settings, app.state.database, app.state.engine)
        sweeping = asyncio.create_task(_sweep(app.state.database, settings))
        yield
        sweeping.cancel()
        app.state.mirror.close()
        app.state.engine.close()
        app.state.database.dispose()

    app: FastAPI = FastAPIOffline(
        title="Fovea", version=service.__version__, description=DESCRIPTION, lifespan=lifespan
    )
    app.state.settings = settings
    app.state.database = Database(settings.database)
    mine = (
        health,
        upload_routes,
        datasets,
        differences,
        growth,
        jobs,
        classify,
        prediction_routes,
        registry,
        shadows,
        models,
        bundles,
        key_routes,
        session_routes,
    )
    for module in (*mine, inference_protocol, torchserve):
        app.include_router(module.router, responses=PROBLEMS)
    app.include_router(web.router())
    problems.install(app)
    app.add_middleware(Edge, settings=settings)
    return app


def prepare(database: Database, settings: Settings) -> None:
    """Schema, admin key, and what an earlier process left half-done."""
    upgrade(database)
    keys.ensure_admin(database, settings)
    uploads.recover(database, settings)
    with database.write() as session:
        artifacts.sweep(session)
        kept = set(session.scalars(select(DatasetVersion.archive_sha256)))
    predictions.sweep(database, settings)
    for path in settings.archives.glob("*/*.zip"):
        if path.stem not in kept:
            path.unlink(missing_ok=True)


async def _sweep(database: Database, settings: Settings) -> None:
    """Every now and then, as long as the service runs."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await run_in_threadpool(uploads.sweep, database, settings)
        except Exception:
            log.exception("expired uploads could not be swept; tried again later")


class Edge:
    """Around every request: a request id in and out, safe headers, and a limit on JSON bodies."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if re.fullmatch(r"[\w.-]{1,128}", given, re.ASCII) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added["X-Request-Id"] = request_id
                added["X-Content-Type-Options"] = "nosniff"
                added["Referrer-Policy"] = "no-referrer"
                added["X-Frame-Options"] = "DENY"
                added.setdefault("Cache-Control", "no-store")
                if scope["path"].startswith("/v1/uploads"):
                    added["Tus-Resumable"] = upload_routes.VERSION
            await send(message)

        if self._too_large(scope, headers):
            error = PayloadTooLarge("body_too_large", "the body is too large", headers={"Connection": "close"})
            await problems.problem(error, request_id)(scope, receive, send_with_headers)
            return
        await self.app(scope, self._limited(scope, receive), send_with_headers)

    def _too_large(self, scope: Scope, headers: Headers) -> bool:
        declared = headers.get("content-length", "0")
        return not _streams(scope) and declared.isdigit() and int(declared) > self.settings.max_body_bytes

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Counts chunked bodies too; routes that stream count for themselves, against their own limits."""
        if _streams(scope):
            return receive
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.settings.max_body_bytes:
                raise HTTPException(413)  # of the framework's own kind: it would turn any other into a 400
            return message

        return counted


def _streams(scope: Scope) -> bool:
    path = scope["path"]
    named = path == "/v1/datasets" or path.startswith(("/predictions/", "/v1/uploads/"))
    return bool(named or path.endswith(("/classify", "/versions", "/versions:import", "/infer")))
