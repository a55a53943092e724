"""A PostgreSQL server for tests: that of FOVEA_TEST_POSTGRESQL, else one of their own where PostgreSQL is installed.

With `FOVEA_TEST_POSTGRESQL=postgresql+psycopg://user@host/postgres` every service of the tests keeps its tables there.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

GIVEN = os.environ.get("FOVEA_TEST_POSTGRESQL")


@contextmanager
def server() -> Iterator[str]:
    """Its URL."""
    if GIVEN is not None:
        yield GIVEN
        return
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("no PostgreSQL is installed")
    owner = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it does not run as root
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.chown(folder, owner)

        def run(*words: str) -> None:
            subprocess.run(words, check=True, cwd=folder, user=owner, stdout=subprocess.DEVNULL)

        data, options = f"{folder}/data", f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=200"
        run("initdb", "-D", data, "-A", "trust", "-U", "fovea", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql+psycopg://fovea@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def database_for(folder: Path, server: str) -> str:
    """The URL of the folder's own database on the server, made when it is first asked for."""
    url = make_url(server)
    name = f"fovea_{hashlib.sha256(str(folder).encode()).hexdigest()[:24]}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if not connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)
