"""`python -m workers`, `fovea work`: claim and run jobs until SIGTERM or Ctrl-C."""

import logging
import signal
import sys

from pydantic import ValidationError

from service.errors import ServiceError
from service.settings import Settings
from workers.supervisor import Supervisor


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        supervisor = Supervisor(Settings())
    except (ValidationError, ServiceError) as error:
        sys.exit(f"fovea work: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.shut_down())
    supervisor.run()


if __name__ == "__main__":
    main()
