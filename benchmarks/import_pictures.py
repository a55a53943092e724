"""Import of 10,000 small pictures against a naive loop: extract, PIL verify, PIL open, hash, one commit per row.

Both end with decoded, hashed and recorded pictures on the same disk; both databases are SQLite with its default of a
durable commit. Memory is measured at 2,000 and at 10,000 pictures, children included, in runs of its own: watching it
takes time.
"""

import hashlib
import resource
import sqlite3
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.pictures import write_zip
from service.datasets import importer, versions
from service.db import Database
from service.db.migrate import upgrade
from service.db.tables import DatasetVersion
from service.settings import Settings

COUNT = 10_000


def ours(archive: Path, data: Path) -> float:
    """Seconds."""
    settings = Settings(data=data)
    database = Database(settings.database)
    upgrade(database)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    kept = versions.archive_path(settings, sha256)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(archive.read_bytes())
    with database.write() as session:
        dataset = versions.create_dataset(session, "bench")
        version, _ = versions.add_version(session, dataset, sha256, kept.stat().st_size)
    started = time.perf_counter()
    imported = importer.run(version, settings, lambda done, total: None)
    with database.write() as session:
        importer.publish(session, version.id, imported)
    seconds = time.perf_counter() - started
    with database.read() as session:
        assert session.get_one(DatasetVersion, version.id).status == "ready"
    database.dispose()
    return seconds


def peak_of(archive: Path, data: Path) -> int:
    """The greatest sum of unshared resident bytes of this process and its children above its start."""
    with _Memory() as memory:
        ours(archive, data)
    return memory.peak


def naive(archive: Path, folder: Path) -> float:
    database = sqlite3.connect(folder / "naive.db")
    database.execute("CREATE TABLE pictures (path, label, sha256, width, height)")
    started = time.perf_counter()
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder / "pictures")
    for path in sorted((folder / "pictures").rglob("*.png")):
        with Image.open(path) as picture:
            picture.verify()
        with Image.open(path) as picture:
            picture.convert("RGB").load()
            size = picture.size
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        database.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", (str(path), path.parent.name, digest, *size))
        database.commit()
    return time.perf_counter() - started


class _Memory:
    """Peak of the summed USS of this process and its children, above what it was on entry, in bytes."""

    def __enter__(self) -> "_Memory":
        self.peak, self._done = 0, threading.Event()
        self._start = self._now()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self._now() - self._start)

    def _now(self) -> int:
        me = psutil.Process()
        total = 0
        for process in (me, *me.children(recursive=True)):
            try:
                total += process.memory_full_info().uss
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return total


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zip(folder / "small.zip", COUNT // 5, 32, 10)
        write_zip(folder / "large.zip", COUNT, 32, 10)
        (folder / "naive").mkdir()
        small_peak, peak = peak_of(folder / "small.zip", folder / "a"), peak_of(folder / "large.zip", folder / "b")
        seconds = ours(folder / "large.zip", folder / "c")
        plain = naive(folder / "large.zip", folder / "naive")
    mib = 1024**2
    print(f"import of {COUNT}: ours {seconds:.2f} s, naive {plain:.2f} s, ratio {plain / seconds:.1f}")
    print(f"peak memory above start: {small_peak / mib:.0f} MiB at {COUNT // 5}, {peak / mib:.0f} MiB at {COUNT}")
    print(
        f"greatest resident size of a process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
