"""`python -m service`, `fovea serve`: the HTTP service, until SIGTERM or Ctrl-C."""

import contextlib
import socket
import sys

import uvicorn
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State

from service import keys, sessions
from service.api.app import create_app
from service.errors import ServiceError
from service.settings import Settings


class Server(uvicorn.Server):
    """Says where the page is, once it can be opened."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            print(await run_in_threadpool(_welcome, self.config.app.state, port), flush=True)  # type: ignore[union-attr]


def _welcome(state: State, port: int) -> str:
    """The page's address, as a link that signs in once, within 15 minutes. A new one with every start."""
    settings: Settings = state.settings
    url = f"{settings.url(port)}/"
    if settings.auth == "off":
        return f"Fovea is ready: {url}"
    with state.database.write() as session:
        key = keys.admin(session, settings)
        code = sessions.make_code(session, key.id) if key else None
    return f"Fovea is ready. Sign in once, within 15 minutes: {url}#code={code}" if code else f"Fovea is ready: {url}"


def main() -> None:
    try:
        settings = Settings()
        app = create_app(settings)
    except (ValidationError, ServiceError) as error:
        sys.exit(f"fovea serve: {error}")
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C has stopped it cleanly already
        server.run()
    if not server.started:
        sys.exit(3)  # the reason is in the log


if __name__ == "__main__":
    main()
