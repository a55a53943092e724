"""Pictures of an archive to rows of one .npy file, through a pool of decoders that may crash, hang or be killed.

Row k is the picture of entry k; a rejected picture leaves a row of zeros. The file ends with the SHA-256 of all that is
before: who opens it later asks `is_whole`, for nothing in an epoch would notice that pixels have become others. Memory
does not grow with the number of pictures. It knows no labels and no database, and decodes nothing itself.
"""

import contextlib
import hashlib
import itertools
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from service import disk
from service.datasets.archive import damaged
from service.datasets.zip_format import Entry
from service.errors import InternalError
from service.settings import Settings

CHUNK = 64  # jobs given to a child at once; their answers always fit into a pipe
START_SECONDS = 60.0  # for a child to say that it is ready
MAX_STILLBORN = 5
DIGEST_BYTES = 32  # at the end of the file
HASHED_AT_ONCE = 1024**2  # bytes
SIZES, SIZE_STEP, SAMPLE = (32, 128), 8, 200
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """One picture: its facts, or the reason it was rejected (`error`: code, message, hint)."""

    row: int
    name: str
    sha256: str = ""
    pixel_sha256: str = ""
    width: int = 0
    height: int = 0
    grey: bool = False
    dhash: str = "0" * 16
    format: str = ""
    error: dict[str, Any] | None = None


def pack(
    archive: Path,
    entries: Sequence[Entry],
    target: Path,
    size: int,
    settings: Settings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """Yields a result per entry, in the order they get done; `target` exists once the iterator is exhausted.

    Raises InternalError (code `archive_damaged`) when the archive is not there, InsufficientStorage.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        offset = _allocate(half, (len(entries), size, size, 3))
        order = _order(archive, settings, size) | {"cache": str(half), "data_offset": offset}
        yield from _decode_all(order, entries, settings, on_progress)
        publish(half, target)
    finally:
        half.unlink(missing_ok=True)


def choose_size(archive: Path, entries: Sequence[Entry], settings: Settings) -> int:
    """The median short side of up to 200 pictures spread over the archive, to the next multiple of 8 in 32..128."""
    sample = [entries[i * len(entries) // min(SAMPLE, len(entries))] for i in range(min(SAMPLE, len(entries)))]
    order = _order(archive, settings, SIZES[0]) | {"cache": None, "data_offset": 0}
    results = _decode_all(order, sample, settings, lambda done, total: None)
    sides = [min(result.width, result.height) for result in results if result.error is None]
    side = statistics.median(sides) if sides else SIZES[0]
    return max(SIZES[0], min(SIZES[1], round(side / SIZE_STEP) * SIZE_STEP))


def keep_rows(file: Path, rows: Sequence[int]) -> None:
    """Rewrite the file with these rows only, in this order."""
    take_rows(file, rows, file)


def take_rows(origin: Path, rows: Sequence[int], target: Path) -> None:
    """`target` becomes the file of these rows of `origin`, in this order."""
    half = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        source = np.load(origin, mmap_mode="r", allow_pickle=False)
        _allocate(half, (len(rows), *source.shape[1:]))
        with half.open("r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for start in range(0, len(rows), CHUNK):
                file.write(source[list(rows[start : start + CHUNK])].tobytes())
        publish(half, target)
    finally:
        half.unlink(missing_ok=True)


def is_whole(file: Path) -> bool:
    """Does the file hold what was written? Reads all of it."""
    with file.open("rb") as source:
        length = os.fstat(source.fileno()).st_size - DIGEST_BYTES
        return length > 0 and _sha256(source, length) == source.read()


def publish(half: Path, target: Path) -> None:
    """Make a finished temporary file durable under its name, with its hash at the end."""
    with half.open("r+b") as file:
        digest = _sha256(file, os.fstat(file.fileno()).st_size - DIGEST_BYTES)
        file.seek(-DIGEST_BYTES, os.SEEK_END)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    half.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sha256(file: BinaryIO, length: int) -> bytes:
    """Of the first `length` bytes; the file is left behind them."""
    digest = hashlib.sha256()
    while length > 0 and (piece := file.read(min(length, HASHED_AT_ONCE))):
        digest.update(piece)
        length -= len(piece)
    return digest.digest()


def _allocate(path: Path, shape: tuple[int, ...]) -> int:
    """An .npy of zeros, with room for its hash, whose blocks exist already, so that a full disk shows here.

    Returns where its data starts.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        offset, length = file.tell(), int(np.prod(shape, dtype=np.int64))
        file.flush()
        with disk.written(f"packed pictures of {length} bytes"):
            os.posix_fallocate(file.fileno(), 0, offset + length + DIGEST_BYTES)
    return offset


def _order(archive: Path, settings: Settings, size: int) -> dict[str, Any]:
    if not archive.is_file():  # which the decoders could not say
        raise damaged("is missing")
    return {
        "archive": str(archive.absolute()),
        "size": size,
        "max_bytes": settings.max_image_bytes,
        "max_pixels": settings.max_image_pixels,
        "memory_bytes": settings.decode_memory_bytes,
        "timeout_seconds": settings.decode_timeout_seconds,
    }


# The pool


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    jobs: deque[int] = field(default_factory=deque)  # given and not yet answered, in order
    since: float = field(default_factory=time.monotonic)  # when the first of them began
    ready: bool = False
    rest: bytes = b""  # the beginning of a line

    @property
    def out(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


def _decode_all(
    order: dict[str, Any],
    entries: Sequence[Entry],
    settings: Settings,
    on_progress: Callable[[int, int], None],
) -> Iterator[Result]:
    pool = _Pool(order, entries, settings)
    done = 0
    try:
        while done < len(entries):
            batch = pool.turn()
            done += len(batch)
            yield from batch
            if batch:
                on_progress(done, len(entries))
    finally:
        pool.close()


class _Pool:
    """Feeds the children, collects their answers and replaces the fallen.

    A picture on which a child died is tried once more in a fresh child, for somebody else may have killed the first.
    """

    def __init__(self, order: dict[str, Any], entries: Sequence[Entry], settings: Settings) -> None:
        self.order = json.dumps(order).encode() + b"\n"
        self.entries = entries
        self.timeout = settings.decode_timeout_seconds
        self.fresh: Iterator[int] = iter(range(len(entries)))
        self.again: deque[int] = deque()
        self.suspects: set[int] = set()
        self.stillborn = 0  # children in a row that died before they were ready
        self.selector = selectors.DefaultSelector()
        self.children: list[_Child] = []
        wanted = settings.decode_processes or len(os.sched_getaffinity(0))
        for _ in range(max(1, min(wanted, -(-len(entries) // CHUNK)))):
            self._start()

    def turn(self) -> list[Result]:
        """Wait for answers, at most until the next deadline."""
        now = time.monotonic()
        nearest = min(self._deadline(child) for child in self.children)
        heard = [key.data for key, _ in self.selector.select(max(0.0, nearest - now))]
        results = [result for child in heard for result in self._hear(child)]
        now = time.monotonic()
        for child in [c for c in self.children if c not in heard and self._deadline(c) <= now]:
            results += self._replace(child, "decoder_timeout")
        return results

    def close(self) -> None:
        for child in list(self.children):
            self._end(child)
        self.selector.close()

    def _deadline(self, child: _Child) -> float:
        if not child.ready:
            return child.since + START_SECONDS
        return child.since + self.timeout if child.jobs else float("inf")

    def _hear(self, child: _Child) -> list[Result]:
        data = os.read(child.out, 1 << 16)
        if not data:
            return self._replace(child, "decoder_crashed")
        *lines, child.rest = (child.rest + data).split(b"\n")
        answers = [json.loads(line) for line in lines]
        if answers and not child.ready:
            child.ready, answers, self.stillborn = True, answers[1:], 0
        for _ in answers:
            child.jobs.popleft()
        child.since = time.monotonic()
        self._feed(child)
        return [Result(name=self.entries[answer["row"]].name, **answer) for answer in answers]

    def _feed(self, child: _Child) -> None:
        if len(child.jobs) > CHUNK // 2:
            return
        rows = [self.again.popleft() for _ in range(min(len(self.again), CHUNK // 2))]
        rows += itertools.islice(self.fresh, CHUNK // 2 - len(rows))
        child.jobs += rows
        assert child.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its stdout will tell
            child.process.stdin.write(b"".join(_job(row, self.entries[row]) for row in rows))

    def _replace(self, child: _Child, code: str) -> list[Result]:
        """The picture in hand is the one to blame; the others go on in another child."""
        status = self._end(child)
        self.stillborn += not child.ready
        if self.stillborn > MAX_STILLBORN:
            raise InternalError("decoder_unavailable", f"The picture decoder does not start (status {status}).")
        code = "decoder_timeout" if status == -signal.SIGXCPU else code
        rejected = self._blame(child, code)
        self.again.extendleft(reversed([row for row in child.jobs if row not in rejected]))
        self._start()
        return [Result(row, self.entries[row].name, error=_reason(code)) for row in rejected]

    def _blame(self, child: _Child, code: str) -> list[int]:
        first = list(itertools.islice(child.jobs, 1))
        if code == "decoder_crashed" and not self.suspects.issuperset(first):
            self.suspects.update(first)
            return []
        return first

    def _start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.datasets.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=_ROOT,
            env={"PATH": os.environ.get("PATH", os.defpath), "OPENBLAS_NUM_THREADS": "1"},
        )
        child = _Child(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self.order)
        self.children.append(child)
        self.selector.register(child.out, selectors.EVENT_READ, child)

    def _end(self, child: _Child) -> int:
        self.selector.unregister(child.out)
        self.children.remove(child)
        with child.process as process:
            process.kill()
        return process.returncode


def _job(row: int, entry: Entry) -> bytes:
    place = [entry.header_offset, entry.data_offset, entry.compressed_size, entry.size, entry.method, entry.crc32]
    return json.dumps({"row": row, "entry": place}).encode() + b"\n"


def _reason(code: str) -> dict[str, Any]:
    what = "took too long" if code == "decoder_timeout" else "ended its decoder"
    hint = "Open it in a picture editor and save it again, or leave it out."
    return {"code": code, "message": f"The picture {what}.", "hint": hint}
