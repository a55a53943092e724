"""`python -m service`, `fovea serve`: the HTTP service, until SIGTERM or Ctrl-C."""

import sys

import uvicorn
from pydantic import ValidationError

from service.api.app import create_app
from service.errors import ServiceError
from service.settings import Settings


def main() -> None:
    try:
        settings = Settings()
        app = create_app(settings)
    except (ValidationError, ServiceError) as error:
        sys.exit(f"fovea serve: {error}")
    uvicorn.run(
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


if __name__ == "__main__":
    main()
