"""What an uploaded zip holds, and whether it is safe to read. Nothing is extracted; a name is metadata, never a path.

The central directory is parsed here and not by `zipfile`, which on Python 3.11.7 lets entries overlap, cuts names at
NUL, accepts data before the first entry and builds every entry before one could count them. This module does not know
what a class, a label or a pixel is. It accepts what the common zip tools write: stored and deflated entries, zip64,
data descriptors, names in UTF-8 with or without the flag (otherwise code page 437).
"""

import os
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING, BinaryIO

from service.errors import InvalidValue

if TYPE_CHECKING:  # the decoder child imports this module and must start fast
    from service.settings import Settings

STORED, DEFLATED = 0, 8
NESTED = frozenset({".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"})
SQUEEZABLE = frozenset({".bmp", ".dib", ".tif", ".tiff"})  # raw pixels: one flat colour shrinks 1000:1 honestly
PICTURES = SQUEEZABLE | {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif"}
MAX_RATIO, RATIO_FROM_BYTES, TOTAL_RATIO_FROM_BYTES = 200, 1024**2, 1024**3
MEAN_RECORD_BYTES = 400  # of the directory, which is read at once
MAX_PART_BYTES, MAX_NAME_BYTES, MAX_DEPTH = 255, 1024, 16

_EOCD, _LOCATOR, _EOCD64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_EOCD_MARK, _CENTRAL_MARK, _LOCAL_MARK = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\\\\]")  # control, bidi override, backslash
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED, _UTF8 = 0x2041, 0x800  # flag bits 0, 6, 13 and 11


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    header_offset: int
    data_offset: int
    compressed_size: int
    size: int
    method: int
    crc32: int

    @property
    def suffix(self) -> str:
        return splitext(self.name)[1].lower()


@dataclass(frozen=True, slots=True)
class _Record:
    """One line of the central directory."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc32: int
    compressed_size: int
    size: int
    mode: int
    header_offset: int


def inspect(path: Path, settings: "Settings") -> list[Entry]:
    """Every file in the archive, in the order of its directory, or the first reason to refuse the whole."""
    with path.open("rb") as file:
        start, size, count = _find_directory(file.fileno(), settings.max_archive_entries)
        records = list(_records(os.pread(file.fileno(), size, start), count, settings.max_archive_entries))
        if not records:
            raise InvalidValue("archive_empty", "The archive holds no files.", hint="Zip a folder of pictures.")
        for record in records:
            _check_record(record)
        _check_twins(records)
        entries = _locate(file.fileno(), records, start)
    files = [entry for entry in entries if not entry.name.endswith("/")]
    _check_sizes(files, path.stat().st_size, settings)
    return files


def read(file: BinaryIO, entry: Entry, limit: int) -> bytes:
    """The bytes of one entry; never inflates more than it declared, and never more than `limit` bytes."""
    if entry.size > limit:
        raise InvalidValue(
            "entry_too_large",
            f"{_quoted(entry.name)} has {entry.size} bytes; at most {limit} are accepted.",
            hint="Make the file smaller or leave it out.",
        )
    packed = os.pread(file.fileno(), entry.compressed_size, entry.data_offset)
    data = packed if entry.method == STORED else _inflate(packed, entry)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc32:
        raise _corrupt(entry, "its bytes are not those that were packed")
    return data


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
    detail = f"{_quoted(entry.name)} cannot be read: {why}."
    return InvalidValue("entry_corrupt", detail, hint="Make the archive again and upload it again.")


# The directory


def _find_directory(fd: int, max_entries: int) -> tuple[int, int, int]:
    """Offset, bytes and entry count of the central directory; the count is capped before anything is built from it."""
    end = os.fstat(fd).st_size
    at, count, size, start = _end_record(fd, end)
    if at >= _LOCATOR.size:
        locator = os.pread(fd, _LOCATOR.size, at - _LOCATOR.size)
        if locator[:4] == b"PK\x06\x07":
            at, count, size, start = _zip64_record(fd, _LOCATOR.unpack(locator)[2], at - _LOCATOR.size)
    if count > max_entries:
        raise _too_many(max_entries)
    if size == 0 and count == 0:
        raise InvalidValue("archive_empty", "The archive holds no files.", hint="Zip a folder of pictures.")
    if start + size > at:
        raise _truncated()
    if start + size != at:
        raise _extra_data("before the first entry or after the directory")
    if size > max_entries * MEAN_RECORD_BYTES + 1024**2:
        raise _too_many(max_entries)
    return start, size, count


def _end_record(fd: int, end: int) -> tuple[int, int, int, int]:
    base = max(0, end - _EOCD.size - 0xFFFF)
    tail = os.pread(fd, end - base, base)
    places = [m.start() for m in re.finditer(re.escape(_EOCD_MARK), tail) if m.start() + _EOCD.size <= len(tail)]
    if not places:
        raise _not_found(os.pread(fd, 4, 0))
    *_, comment = _EOCD.unpack_from(tail, places[0])
    if len(places) > 1 or places[0] + _EOCD.size + comment != len(tail):
        raise _extra_data("after its end record, or two end records")
    _, disk, first_disk, here, count, size, start, _ = _EOCD.unpack_from(tail, places[0])
    if disk not in (0, 0xFFFF) or first_disk not in (0, 0xFFFF) or here != count:
        raise InvalidValue("archive_truncated", "The archive is one part of several.", hint="Upload it as one file.")
    return base + places[0], count, size, start


def _zip64_record(fd: int, offset: int, limit: int) -> tuple[int, int, int, int]:
    raw = os.pread(fd, _EOCD64.size, offset) if offset + _EOCD64.size <= limit else b""
    if raw[:4] != b"PK\x06\x06":
        raise _truncated()
    *_, count, size, start = _EOCD64.unpack(raw)
    return offset, count, size, start


def _records(directory: bytes, count: int, max_entries: int) -> Iterator[_Record]:
    at, seen = 0, 0
    while at < len(directory):
        if seen == max_entries:
            raise _too_many(max_entries)
        record, at = _record(directory, at)
        seen += 1
        yield record
    if (seen - count) % 0x10000:  # tools without zip64 write the count modulo 65536
        raise _inconsistent(f"The archive says it holds {count} entries and holds {seen}.")


def _record(directory: bytes, at: int) -> tuple[_Record, int]:
    if len(directory) - at < _CENTRAL.size or directory[at : at + 4] != _CENTRAL_MARK:
        raise _truncated()
    _, _, _, flags, method, _, _, crc, packed, size, name_len, extra_len, comment_len, _, _, attributes, offset = (
        _CENTRAL.unpack_from(directory, at)
    )
    name_at = at + _CENTRAL.size
    raw, extra_at = directory[name_at : name_at + name_len], name_at + name_len
    end = extra_at + extra_len + comment_len
    if end > len(directory):
        raise _truncated()
    size, packed, offset = _widen(directory[extra_at : extra_at + extra_len], size, packed, offset)
    record = _Record(raw, _name(raw, flags), flags, method, crc, packed, size, attributes >> 16, offset)
    return record, end


def _widen(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Values of 0xFFFFFFFF replaced by those of the zip64 extra field, in order."""
    wide = iter(_zip64_values(extra))
    size, packed, offset = (next(wide, value) if value == 0xFFFFFFFF else value for value in values)
    return size, packed, offset


def _zip64_values(extra: bytes) -> list[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            return [v for (v,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        at += 4 + length
    return []


def _name(raw: bytes, flags: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise _bad_name(repr(raw)[:200], "is not UTF-8 though it says so") from None
        return raw.decode("cp437")


# Single entries


def _check_record(record: _Record) -> None:
    if record.flags & _ENCRYPTED:
        raise InvalidValue(
            "archive_encrypted", f"{_quoted(record.name)} is encrypted.", hint="Make the archive without a password."
        )
    if record.method not in (STORED, DEFLATED):
        raise InvalidValue(
            "archive_method",
            f"{_quoted(record.name)} is compressed by method {record.method}.",
            hint="Use plain zip compression (deflate) or none.",
        )
    _check_type(record)
    _check_name(record.name)
    if not is_junk(record.name) and splitext(record.name)[1].lower() in NESTED:
        raise InvalidValue(
            "archive_nested",
            f"{_quoted(record.name)} is an archive inside the archive.",
            hint="Unpack it, and zip the pictures themselves.",
        )


def _check_type(record: _Record) -> None:
    kind = stat.S_IFMT(record.mode)
    special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
    privileged = kind == stat.S_IFREG and record.mode & (stat.S_ISUID | stat.S_ISGID)
    folder = record.name.endswith("/")
    if special or privileged or (folder and record.size) or (kind == stat.S_IFDIR and not folder):
        raise InvalidValue(
            "archive_entry_type",
            f"{_quoted(record.name)} is not an ordinary file or folder.",
            hint="Leave out links, devices and set-user-id files.",
        )


def _check_name(name: str) -> None:
    parts = name.removesuffix("/").split("/")
    if FORBIDDEN.search(name):
        raise _bad_name(name, "holds a control character, a text-direction override or a backslash")
    if name.startswith("/") or _DRIVE.match(name) or any(part in ("", ".", "..") for part in parts):
        raise _bad_name(name, "is absolute, or has an empty, '.' or '..' part")
    if len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise _bad_name(name, f"is longer than {MAX_PART_BYTES} bytes in a part or {MAX_NAME_BYTES} in all")
    if len(parts) > MAX_DEPTH:
        raise _bad_name(name, f"is deeper than {MAX_DEPTH} folders")


def _check_twins(records: list[_Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        key = _twin_key(record.name.removesuffix("/"))
        if key in seen:
            raise InvalidValue(
                "archive_duplicate",
                f"{_quoted(seen[key])} and {_quoted(record.name)} are the same name.",
                hint="Rename one; names that differ only in case or in accent encoding count as the same.",
            )
        seen[key] = record.name


def _twin_key(name: str) -> str:
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


# Where the bytes lie


def _locate(fd: int, records: list[_Record], directory_start: int) -> list[Entry]:
    """Entries with the place of their data; none may share a byte with another, or lie after the directory."""
    ordered = sorted(records, key=lambda record: record.header_offset)
    if ordered[0].header_offset != 0:
        raise _extra_data("before the first entry")
    located: dict[int, Entry] = {}
    ends = [record.header_offset for record in ordered[1:]] + [directory_start]
    for record, end in zip(ordered, ends, strict=True):
        entry = _entry(fd, record, directory_start)
        if entry.data_offset + entry.compressed_size > end:
            raise InvalidValue(
                "archive_overlap",
                f"{_quoted(entry.name)} overlaps another entry.",
                hint="Make the archive again with an ordinary zip tool.",
            )
        located[record.header_offset] = entry
    return [located[record.header_offset] for record in records]


def _entry(fd: int, record: _Record, directory_start: int) -> Entry:
    at = record.header_offset
    if at + _LOCAL.size > directory_start:
        raise _truncated()
    raw = os.pread(fd, _LOCAL.size + len(record.raw_name), at)
    mark, _, flags, method, _, _, _, packed, size, name_len, extra_len = _LOCAL.unpack_from(raw)
    if mark != _LOCAL_MARK:
        raise _truncated()
    same = name_len == len(record.raw_name) and raw[_LOCAL.size :] == record.raw_name
    streamed, wide = flags & 8, 0xFFFFFFFF in (packed, size)
    if not same or method != record.method or flags & _ENCRYPTED:
        raise _inconsistent(f"{_quoted(record.name)} has another name or kind in its own header.")
    if not streamed and not wide and (packed, size) != (record.compressed_size, record.size):
        raise _inconsistent(f"{_quoted(record.name)} has another size in its own header.")
    if record.method == STORED and record.compressed_size != record.size:
        raise _inconsistent(f"{_quoted(record.name)} is stored and yet has two sizes.")
    data = at + _LOCAL.size + name_len + extra_len
    return Entry(record.name, at, data, record.compressed_size, record.size, record.method, record.crc32)


def _check_sizes(files: list[Entry], archive_bytes: int, settings: "Settings") -> None:
    for entry in files:
        if entry.suffix in PICTURES and entry.size > settings.max_image_bytes:
            raise _bomb(f"{_quoted(entry.name)} has {entry.size} bytes, more than {settings.max_image_bytes}")
        if entry.suffix not in SQUEEZABLE and entry.size > max(RATIO_FROM_BYTES, MAX_RATIO * entry.compressed_size):
            raise _bomb(f"{_quoted(entry.name)} unpacks to more than {MAX_RATIO} times its size")
    total = sum(entry.size for entry in files)
    if total > settings.max_unpacked_bytes or total > max(TOTAL_RATIO_FROM_BYTES, MAX_RATIO * archive_bytes):
        raise _bomb(f"The archive unpacks to {total} bytes")


# Reasons


def _quoted(name: str) -> str:
    shown = name if len(name) <= 200 else name[:200] + "…"
    return "'" + FORBIDDEN.sub(lambda found: repr(found[0])[1:-1], shown) + "'"


def _bad_name(name: str, why: str) -> InvalidValue:
    return InvalidValue("archive_name", f"The name {_quoted(name)} {why}.", hint="Rename the file and zip again.")


def _bomb(detail: str) -> InvalidValue:
    return InvalidValue("archive_bomb", f"{detail}.", hint="Leave it out or make it smaller; the limits are settings.")


def _truncated() -> InvalidValue:
    detail = "The archive is incomplete or damaged."
    return InvalidValue("archive_truncated", detail, hint="Copy or download it again, then upload again.")


def _extra_data(where: str) -> InvalidValue:
    detail = f"The archive has data {where}."
    return InvalidValue("archive_extra_data", detail, hint="Make the archive again with an ordinary zip tool.")


def _inconsistent(detail: str) -> InvalidValue:
    return InvalidValue("archive_inconsistent", detail, hint="Make the archive again with an ordinary zip tool.")


def _too_many(limit: int) -> InvalidValue:
    detail = f"The archive holds more than {limit} entries."
    return InvalidValue("archive_too_many_entries", detail, hint="Split it, or raise FOVEA_MAX_ARCHIVE_ENTRIES.")


def _not_found(first: bytes) -> InvalidValue:
    if first == _LOCAL_MARK:
        return _truncated()
    return InvalidValue("archive_not_a_zip", "The file is not a zip archive.", hint="Upload a .zip of pictures.")
