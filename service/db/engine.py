"""One engine, two kinds of transaction: `read` (a snapshot) and `write` (one writer at a time).

In SQLite a deferred transaction that reads and then writes fails with "database is locked" at once, whatever the
timeout; so every writer says BEGIN IMMEDIATE. SQLite before 3.51.3 can corrupt a WAL file that several processes
checkpoint (sqlite.org/wal.html, "WAL-reset bug"): pysqlite3 brings a library of its own, and an older one is refused.

In PostgreSQL a writer takes an advisory lock first, and sees from then on what others committed, statement by
statement: what is true for SQLite's one writer is true there.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pysqlite3
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.errors import InsufficientStorage, InternalError, Overloaded

BUSY_TIMEOUT_SECONDS = 10.0
BUSY, FULL = ("locked", "busy"), ("is full",)  # in what SQLite says
LOCK_NOT_AVAILABLE, DISK_FULL = "55P03", "53100"  # PostgreSQL's codes; the lock is one that was not had in time
CANNOT_WRITE = ("database_busy", "database_full")  # codes of errors that say nothing against what was to be written
ROOM = "free some space, and try again"
WRITER = 0x466F766561  # the advisory lock of PostgreSQL that the one writer holds: "Fovea"
POOLED, CONNECTIONS = 5, 50  # kept, and most of a process: one for each of the framework's 40 threads and for ours
FIXED_SQLITE = (3, 51, 3)


class Database:
    """Sessions over one database. Safe to share between threads; make a new one after a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
        self._read = sessionmaker(self.engine, expire_on_commit=False)
        writing = self.engine.execution_options(fovea_write=True)
        self._write = sessionmaker(writing, expire_on_commit=False)
        self._write_soon = sessionmaker(writing.execution_options(fovea_soon=True), expire_on_commit=False)
        self._watching: Any = None  # a connection that only ever asks whether others have written
        self._watch = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._read() as session:
            yield session

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        """Commits when the block ends, rolls back when it raises.

        Raises Overloaded (503) when the writer lock is not had, InsufficientStorage (507) when the disk is full.

        What was written with `durable=False` survives this process, and a loss of power from the next durable commit
        on; it holds the writer lock for a fraction of the time.
        """
        try:
            with (self._write if durable else self._write_soon).begin() as session:
                yield session
        except OperationalError as error:
            if _says(error.orig, LOCK_NOT_AVAILABLE, BUSY):
                raise Overloaded("database_busy", "another writer holds the database", hint="try again") from error
            if _says(error.orig, DISK_FULL, FULL):
                raise InsufficientStorage("database_full", "the database's disk is full", hint=ROOM) from error
            raise

    def sync(self) -> None:
        """Puts what was written with `durable=False` on the disk now, while nobody waits for the writer lock."""
        log = Path(f"{self.engine.url.database}-wal")
        if self.engine.dialect.name == "sqlite" and log.exists():
            with log.open("rb") as file:
                os.fsync(file.fileno())

    def changes(self) -> int | None:
        """A number that is another one after every commit of any process; None when it cannot be told at once.

        Microseconds: SQLite compares the head of its write-ahead log (`PRAGMA data_version`).
        """
        if self.engine.dialect.name != "sqlite":
            return None
        with self._watch:
            try:
                if self._watching is None:
                    path = self.engine.url.database
                    self._watching = pysqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
                return int(self._watching.execute("PRAGMA data_version").fetchone()[0])
            except pysqlite3.Error:
                return None

    def bytes(self) -> int:
        """What the tables take on the disk."""
        if self.engine.dialect.name == "sqlite":
            path = self.engine.url.database
            files = (Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))
            return sum(file.stat().st_size for file in files if file.exists())
        with self.read() as session:
            return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)

    def dispose(self) -> None:
        self.engine.dispose()
        with self._watch:
            if self._watching is not None:
                self._watching.close()
                self._watching = None


def _says(error: object, sqlstate: str, words: Sequence[str]) -> bool:
    return getattr(error, "sqlstate", None) == sqlstate or any(word in str(error) for word in words)


def check_sqlite(version: tuple[int, ...]) -> None:
    """Raises InternalError for a SQLite whose write-ahead log can corrupt itself."""
    if version < FIXED_SQLITE:
        raise InternalError(
            "sqlite_too_old",
            f"SQLite {'.'.join(map(str, version))} can corrupt its write-ahead log",
            hint="install the pinned requirements: their pysqlite3 brings SQLite 3.51.3 or newer",
        )


def _sqlite(url: str) -> Engine:
    check_sqlite(pysqlite3.sqlite_version_info)
    if database := make_url(url).database:
        Path(database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(url, module=pysqlite3, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if options.get('fovea_soon') else 'FULL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("fovea_write") else "BEGIN")

    return engine


def _postgresql(url: str) -> Engine:
    more = CONNECTIONS - POOLED
    engine = create_engine(
        url, pool_pre_ping=True, pool_size=POOLED, max_overflow=more, isolation_level="READ COMMITTED"
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        options = connection.get_execution_options()
        if not options.get("fovea_write"):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return
        if options.get("fovea_soon"):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_SECONDS:g}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")

    return engine
