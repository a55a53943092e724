"""What an uploaded zip holds, and whether it is safe to read. Nothing is extracted; a name is metadata, never a path.

This module does not know what a class, a label or a pixel is.
"""

import os
import re
import stat
import unicodedata
import zlib
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING, BinaryIO

from service.datasets.zip_format import (
    DEFLATED,
    ENCRYPTED,
    FORBIDDEN,
    STORED,
    Entry,
    Record,
    bad_name,
    directory,
    locate,
    quoted,
)
from service.errors import InternalError, InvalidValue

if TYPE_CHECKING:  # the decoder child imports this module and must start fast
    from service.settings import Settings

NESTED = frozenset({".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"})
SQUEEZABLE = frozenset({".bmp", ".dib", ".tif", ".tiff"})  # raw pixels: one flat colour shrinks 1000:1 honestly
PICTURES = SQUEEZABLE | {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif"}
MAX_RATIO, RATIO_FROM_BYTES, TOTAL_RATIO_FROM_BYTES = 200, 1024**2, 1024**3
SLACK_BYTES = 1024**2  # that deflate may waste, on twice the size: blocks of nothing can make it any length
MAX_PART_BYTES, MAX_NAME_BYTES, MAX_DEPTH = 255, 1024, 16

_DRIVE = re.compile(r"[A-Za-z]:")


def inspect(path: Path, settings: "Settings") -> list[Entry]:
    """Every file in the archive, in the order of its directory, or the first reason to refuse the whole."""
    with path.open("rb") as file:
        records, start = directory(file.fileno(), settings.max_archive_entries)
        if not records:
            raise InvalidValue("archive_empty", "The archive holds no files.", hint="Zip a folder of pictures.")
        for record in records:
            _check_record(record)
        _check_twins(records)
        entries = locate(file.fileno(), records, start)
    files = [entry for entry in entries if not entry.name.endswith("/")]
    _check_sizes(files, path.stat().st_size, settings)
    return files


def read(file: BinaryIO, entry: Entry, limit: int) -> bytes:
    """The bytes of one entry; never inflates more than it declared, and never more than `limit` bytes.

    Raises InvalidValue: `entry_too_large` beyond `limit`, `entry_corrupt` for what is not as it was packed.
    """
    if entry.size > limit:
        raise InvalidValue(
            "entry_too_large",
            f"{quoted(entry.name)} has {entry.size} bytes; at most {limit} are accepted.",
            hint="Make the file smaller or leave it out.",
        )
    if entry.compressed_size > 2 * entry.size + SLACK_BYTES:
        raise _corrupt(entry, "its compressed data is far longer than its bytes")
    packed = os.pread(file.fileno(), entry.compressed_size, entry.data_offset)
    data = packed if entry.method == STORED else _inflate(packed, entry)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc32:
        raise _corrupt(entry, "its bytes are not those that were packed")
    return data


def damaged(what: str) -> InternalError:
    """The error for an archive that was whole when it was taken in; `what` has become of it."""
    hint = (
        "restore it from a backup, or upload the same zip again (to any dataset): it takes the place of the damaged one"
    )
    return InternalError("archive_damaged", f"The stored archive {what}.", hint=hint)


def is_junk(name: str) -> bool:
    """What operating systems leave in archives."""
    parts = name.removesuffix("/").split("/")
    hidden = any(part == "__MACOSX" or part.startswith(".") for part in parts)
    return hidden or parts[-1].lower() in ("thumbs.db", "desktop.ini")


def _inflate(packed: bytes, entry: Entry) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = engine.decompress(packed, entry.size + 1)  # one byte more than declared tells a lie
    except zlib.error as error:
        raise _corrupt(entry, "its compressed data is damaged") from error
    if not engine.eof or engine.unused_data:
        raise _corrupt(entry, "its size is not the declared one")
    return data


def _corrupt(entry: Entry, why: str) -> InvalidValue:
    detail = f"{quoted(entry.name)} cannot be read: {why}."
    return InvalidValue("entry_corrupt", detail, hint="Make the archive again and upload it again.")


def _check_record(record: Record) -> None:
    if record.flags & ENCRYPTED:
        raise InvalidValue(
            "archive_encrypted", f"{quoted(record.name)} is encrypted.", hint="Make the archive without a password."
        )
    if record.method not in (STORED, DEFLATED):
        raise InvalidValue(
            "archive_method",
            f"{quoted(record.name)} is compressed by method {record.method}.",
            hint="Use plain zip compression (deflate) or none.",
        )
    _check_type(record)
    _check_name(record.name)
    if not is_junk(record.name) and splitext(record.name)[1].lower() in NESTED:
        raise InvalidValue(
            "archive_nested",
            f"{quoted(record.name)} is an archive inside the archive.",
            hint="Unpack it, and zip the pictures themselves.",
        )


def _check_type(record: Record) -> None:
    kind = stat.S_IFMT(record.mode)
    special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    privileged = kind == stat.S_IFREG and record.mode & (stat.S_ISUID | stat.S_ISGID)
    folder = record.name.endswith("/")
    if special or privileged or (folder and record.size) or (kind == stat.S_IFDIR and not folder):
        raise InvalidValue(
            "archive_entry_type",
            f"{quoted(record.name)} is not an ordinary file or folder.",
            hint="Leave out links, devices and set-user-id files.",
        )


def _check_name(name: str) -> None:
    parts = name.removesuffix("/").split("/")
    if FORBIDDEN.search(name):
        raise bad_name(name, "holds a control character, a text-direction override or a backslash")
    if name.startswith("/") or _DRIVE.match(name) or any(part in ("", ".", "..") for part in parts):
        raise bad_name(name, "is absolute, or has an empty, '.' or '..' part")
    if len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise bad_name(name, f"is longer than {MAX_PART_BYTES} bytes in a part or {MAX_NAME_BYTES} in all")
    if len(parts) > MAX_DEPTH:
        raise bad_name(name, f"is deeper than {MAX_DEPTH} folders")


def _check_twins(records: list[Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        key = _twin_key(record.name.removesuffix("/"))
        if key in seen:
            raise InvalidValue(
                "archive_duplicate",
                f"{quoted(seen[key])} and {quoted(record.name)} are the same name.",
                hint="Rename one; names that differ only in case or in accent encoding count as the same.",
            )
        seen[key] = record.name


def _twin_key(name: str) -> str:
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _check_sizes(files: list[Entry], archive_bytes: int, settings: "Settings") -> None:
    for entry in files:
        if entry.suffix in PICTURES and entry.size > settings.max_image_bytes:
            raise _bomb(f"{quoted(entry.name)} has {entry.size} bytes, more than {settings.max_image_bytes}")
        if entry.suffix not in SQUEEZABLE and entry.size > max(RATIO_FROM_BYTES, MAX_RATIO * entry.compressed_size):
            raise _bomb(f"{quoted(entry.name)} unpacks to more than {MAX_RATIO} times its size")
    total = sum(entry.size for entry in files)
    if total > settings.max_unpacked_bytes or total > max(TOTAL_RATIO_FROM_BYTES, MAX_RATIO * archive_bytes):
        raise _bomb(f"The archive unpacks to {total} bytes")


def _bomb(detail: str) -> InvalidValue:
    return InvalidValue("archive_bomb", f"{detail}.", hint="Leave it out or make it smaller; the limits are settings.")
