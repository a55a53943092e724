"""`python -m service`, `fovea serve`: the HTTP service, until SIGTERM or Ctrl-C; FOVEA_PROCESSES of it on one port."""

import contextlib
import os
import socket
import sys
from typing import Any

import uvicorn
from pydantic import ValidationError

from service import keys, prefork, sessions, together
from service.connections import Listener, Server, allow_descriptors
from service.db import Database
from service.errors import ServiceError
from service.preparation import prepare
from service.settings import Settings

# An idle thread of torch's looks for work for milliseconds, on the core on which requests are decoded and answered.
SPINS = 1000
# A connection closed just when its client sends the next request loses that request: longer than clients usually pause.
IDLE_SECONDS = 75


def _welcome(settings: Settings, port: int) -> None:
    """Says where the page is, with a link that signs in once, within 15 minutes. A new one with every start."""
    code = None
    if settings.auth == "on":
        database = Database(settings.database)
        with database.write() as session:
            key = keys.admin(session, settings)
            code = sessions.make_code(session, key.id) if key else None
        database.dispose()
    url = f"{settings.url(port)}/"
    link = f"Fovea is ready. Sign in once, within 15 minutes: {url}#code={code}"
    print(link if code else f"Fovea is ready: {url}", flush=True)


def main() -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    try:
        settings = Settings()
        allow_descriptors()
        code = _serve(settings) if settings.processes == 1 else _serve_together(settings)
    except (ValidationError, ServiceError) as error:
        sys.exit(f"fovea serve: {error}")
    sys.exit(code)


def _serve(settings: Settings) -> int:
    together.alone()
    from service.api.app import create_app

    app = create_app(settings)
    config = _config(settings, app)
    bound = config.bind_socket()
    port = bound.getsockname()[1]
    seconds = settings.header_timeout_seconds
    server = Server(config, lambda: Listener(bound), lambda: _welcome(settings, port), app.close, seconds)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C has stopped it cleanly already
        server.run()
    return 0 if server.started else 3  # the reason is in the log


def _serve_together(settings: Settings) -> int:
    listener = _config(settings, None).bind_socket()
    database = Database(settings.database)
    prepare(database, settings)
    database.dispose()  # no connection lives through a fork
    with together.counting():
        return _supervise(settings, listener)


def _supervise(settings: Settings, listener: socket.socket) -> int:
    from service.api.app import create_app

    def run(place: int, share: prefork.Share) -> None:
        mine = settings.share()
        app = create_app(mine, place)
        server = Server(_config(mine, app), lambda: share, share.say_ready, app.close, mine.header_timeout_seconds)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
        sys.exit(0 if server.started else 3)

    port = listener.getsockname()[1]
    return prefork.Supervisor(listener, settings.processes, run, lambda: _welcome(settings, port)).run()


def _config(settings: Settings, app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="httptools",
        ws="none",
        loop="uvloop",
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=30,
    )


if __name__ == "__main__":
    main()
