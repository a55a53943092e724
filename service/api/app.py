"""The application: settings in, ASGI app out. Nothing happens on import."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

import service
from service import uploads
from service.api import (
    bundles,
    classify,
    datasets,
    differences,
    documentation,
    edits,
    growth,
    health,
    inference_protocol,
    job_records,
    jobs,
    models,
    problems,
    registry,
    shadows,
    suspects,
    torchserve,
    web,
)
from service.api import keys as key_routes
from service.api import predictions as prediction_routes
from service.api import session as session_routes
from service.api import uploads as upload_routes
from service.api.answering import Answering
from service.api.bodies import Room, arriving, too_large
from service.api.closing import Closing, shutting_down
from service.api.context import Once
from service.api.examples import PROBLEMS
from service.api.remembered import Remembered
from service.db import Database
from service.decoding import Decoding
from service.errors import ServiceError
from service.ids import new_id
from service.inference.engine import Engine
from service.mirror import Mirror
from service.preparation import prepare
from service.settings import Settings

log = logging.getLogger(__name__)
SWEEP_SECONDS = 600.0
PATIENCE = 4  # times the longest silence of a client: the time of a whole JSON body
DESCRIPTION = "Upload labelled pictures, train a network, classify. Errors are `application/problem+json`."


def create_app(settings: Settings, place: int | None = None) -> "Edge":
    """The service over one data folder. Migrates the database and makes the admin key when it starts.

    `place` is its number among the processes that answer together, from 0, whose supervisor has done that.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = app.state.database
        if place is None:
            prepare(database, settings)
        app.state.engine = engine = Engine(settings)
        decoding: Decoding = app.state.decoding
        app.state.mirror = mirror = Mirror(settings, database, engine, decoding)
        app.state.answering = answering = Answering(settings, database, app.state.remembered, engine, mirror, decoding)
        await run_in_threadpool(answering.warm)
        sweeping = asyncio.create_task(_sweep(database, settings)) if not place else None
        yield
        if sweeping:
            sweeping.cancel()
        answering.close()
        mirror.close()
        engine.close()
        database.dispose()

    app = documentation.application(
        title="Fovea",
        version=service.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        generate_unique_id_function=_operation,
    )
    app.state.settings = settings
    app.state.database = Database(settings.database)
    app.state.remembered = Remembered(app.state.database)
    app.state.room = Room(settings.max_bodies_bytes)
    app.state.closing = Closing()
    app.state.decoding = Decoding(settings.max_decoding_bytes)
    mine = (
        health,
        upload_routes,
        datasets,
        differences,
        edits,
        suspects,
        growth,
        jobs,
        job_records,
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
    return Edge(app, settings)


def _operation(route: APIRoute) -> str:
    """What generated clients call it."""
    return "_".join([*map(str, route.tags), route.name]).replace(" ", "_")


async def _sweep(database: Database, settings: Settings) -> None:
    """Every now and then, as long as the service runs."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await run_in_threadpool(uploads.sweep, database, settings)
            await run_in_threadpool(Once.forget_old, database)
        except Exception:
            log.exception("what has expired could not be swept; tried again later")


SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),  # unless a route says otherwise
)


class Edge:
    """Around every request and all of the framework: a request id in and out, safe headers, limits on JSON bodies."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    def close(self) -> None:
        """The service is about to end: nobody waits for anything any more."""
        self.app.state.closing.begin()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        finally:
            self.app.state.room.give_back(scope.get("state", {}))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if re.fullmatch(r"[\w.-]{1,128}", given, re.ASCII) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id

        added = [(b"x-request-id", request_id.encode()), *SAFE]
        if scope["path"].startswith("/v1/uploads"):
            added.append((b"tus-resumable", upload_routes.VERSION.encode()))

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in added if one[0] not in given)]
            await send(message)

        try:
            await self._route(scope, receive, send_with_headers, headers)
        except asyncio.CancelledError:
            if begun or not self.app.state.closing.begun:
                raise
            await problems.problem(shutting_down(), request_id)(scope, receive, send_with_headers)

    async def _route(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        if self._too_large(scope, headers):
            error = too_large(self.settings.max_body_bytes)
            await problems.problem(error, scope["state"]["request_id"])(scope, receive, send)
            return
        if (path := classify.PATH.fullmatch(scope["path"])) and scope["method"] == "POST":
            scope["app"] = self.app
            await classify.direct(path[1], scope, receive, send)
            return
        await self.app(scope, self._limited(scope, receive), send)

    def _too_large(self, scope: Scope, headers: Headers) -> bool:
        declared = headers.get("content-length", "0")
        return not _streams(scope) and declared.isdigit() and int(declared) > self.settings.max_body_bytes

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Counts chunked bodies too, and their seconds; routes that stream do so themselves, with their own limits."""
        if _streams(scope):
            return receive
        limit, silence, clock = self.settings.max_body_bytes, self.settings.receive_timeout_seconds, time.monotonic
        began, received, more, closing = clock(), 0, True, self.app.state.closing

        async def counted() -> Message:
            nonlocal received, more
            if not more:  # what comes now is that the client goes away
                return await receive()
            try:
                message = await arriving(receive, min(silence, began + PATIENCE * silence - clock()), closing)
                received += len(message.get("body", b""))
                if received > limit:
                    raise too_large(limit)
            except ServiceError as error:
                raise problems.Carried(error) from error
            more = message.get("more_body", False)
            return message

        return counted


def _streams(scope: Scope) -> bool:
    path = scope["path"]
    named = path == "/v1/datasets" or path.startswith(("/predictions/", "/v1/uploads/"))
    return bool(named or path.endswith(("/classify", "/versions", "/versions:import", "/infer")))
