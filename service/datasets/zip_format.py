"""The zip format, read strictly: the central directory, and where each entry's bytes lie.

The directory is parsed here and not by `zipfile`, which on Python 3.11.7 lets entries overlap, cuts names at NUL,
accepts data before the first entry and builds every entry before one could count them. What the common zip tools write
is read: stored and deflated entries, zip64, data descriptors, names in UTF-8 with or without the flag (otherwise code
page 437). Whether an entry is welcome is not known here.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import splitext

from service.errors import InvalidValue

STORED, DEFLATED = 0, 8
ENCRYPTED, _UTF8 = 0x2041, 0x800  # flag bits 0, 6, 13 and 11
MEAN_RECORD_BYTES = 400  # of the directory, which is read at once
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\\\\]")  # control, bidi override, backslash

_EOCD, _LOCATOR, _EOCD64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_EOCD_MARK, _CENTRAL_MARK, _LOCAL_MARK = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"


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
class Record:
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


def directory(fd: int, max_entries: int) -> tuple[list[Record], int]:
    """The lines of the central directory, and where it begins."""
    start, size, count = _find_directory(fd, max_entries)
    return list(_records(os.pread(fd, size, start), count, max_entries)), start


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


def _records(directory: bytes, count: int, max_entries: int) -> Iterator[Record]:
    at, seen = 0, 0
    while at < len(directory):
        if seen == max_entries:
            raise _too_many(max_entries)
        record, at = _record(directory, at)
        seen += 1
        yield record
    if (seen - count) % 0x10000:  # tools without zip64 write the count modulo 65536
        raise _inconsistent(f"The archive says it holds {count} entries and holds {seen}.")


def _record(directory: bytes, at: int) -> tuple[Record, int]:
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
    record = Record(raw, _name(raw, flags), flags, method, crc, packed, size, attributes >> 16, offset)
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
            raise bad_name(repr(raw)[:200], "is not UTF-8 though it says so") from None
        return raw.decode("cp437")


def locate(fd: int, records: list[Record], directory_start: int) -> list[Entry]:
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
                f"{quoted(entry.name)} overlaps another entry.",
                hint="Make the archive again with an ordinary zip tool.",
            )
        located[record.header_offset] = entry
    return [located[record.header_offset] for record in records]


def _entry(fd: int, record: Record, directory_start: int) -> Entry:
    at = record.header_offset
    if at + _LOCAL.size > directory_start:
        raise _truncated()
    raw = os.pread(fd, _LOCAL.size + len(record.raw_name), at)
    mark, _, flags, method, _, _, _, packed, size, name_len, extra_len = _LOCAL.unpack_from(raw)
    if mark != _LOCAL_MARK:
        raise _truncated()
    same = name_len == len(record.raw_name) and raw[_LOCAL.size :] == record.raw_name
    streamed, wide = flags & 8, 0xFFFFFFFF in (packed, size)
    if not same or method != record.method or flags & ENCRYPTED:
        raise _inconsistent(f"{quoted(record.name)} has another name or kind in its own header.")
    if not streamed and not wide and (packed, size) != (record.compressed_size, record.size):
        raise _inconsistent(f"{quoted(record.name)} has another size in its own header.")
    if record.method == STORED and record.compressed_size != record.size:
        raise _inconsistent(f"{quoted(record.name)} is stored and yet has two sizes.")
    data = at + _LOCAL.size + name_len + extra_len
    return Entry(record.name, at, data, record.compressed_size, record.size, record.method, record.crc32)


# Reasons


def quoted(name: str) -> str:
    shown = name if len(name) <= 200 else name[:200] + "…"
    return "'" + FORBIDDEN.sub(lambda found: repr(found[0])[1:-1], shown) + "'"


def bad_name(name: str, why: str) -> InvalidValue:
    return InvalidValue("archive_name", f"The name {quoted(name)} {why}.", hint="Rename the file and zip again.")


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
