"""Archives and pictures that mean harm, made by code."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(kind: str = "PNG", side: int = 16, seed: int = 0, mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind)
    return out.getvalue()


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def classes(count: int = 4, side: int = 16) -> dict[str, bytes]:
    return {
        f"{label}/{i}.png": picture(seed=i * 2 + k, side=side) for k, label in enumerate("ab") for i in range(count)
    }


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG that goes over its pixels again and again: its last refinement is repeated."""
    out = io.BytesIO()
    Image.new("L", (side, side), 128).save(out, "JPEG", progressive=True, quality=50)
    usual = out.getvalue()
    last, end = usual.rindex(b"\xff\xda"), usual.rindex(b"\xff\xd9")
    return usual[:last] + usual[last:end] * scans + usual[end:]


def chatty_png(side: int, chunks: int) -> bytes:
    """A megabyte of text in every chunk, compressed to a kilobyte."""
    body = b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    plain = picture(side=side)
    return plain[:33] + chunk * chunks + plain[33:]


def tiled_tiff(side: int, tile: int, *, twin: int | None = None) -> bytes:
    """A grey picture of one deflated tile. `twin` is the side of a tile that a second pair of tags tells."""
    body = zlib.compress(bytes(tile * tile) if tile < 4096 else b"", 9)
    sides = [(322, tile), (323, tile)]
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1), *sides, (324, 0), (325, len(body))]
    tags = sorted(tags + ([(tag, twin) for tag, _ in sides] if twin else []), key=lambda one: one[0])
    at = 8 + 2 + 12 * len(tags) + 4
    rows = [struct.pack("<2H2L", tag, 4, 1, at if tag == 324 else value) for tag, value in tags]
    return struct.pack("<2sHLH", b"II", 42, 8, len(tags)) + b"".join(rows) + bytes(4) + body


def quoted_overlap(path: Path, copies: int = 50) -> Path:
    """Every directory entry points at one and the same local header."""
    name, body = b"a/0.png", zlib.compress(bytes(100_000), 9)[2:-4]
    crc = zlib.crc32(bytes(100_000))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(body), 100_000, len(name), 0) + name + body
    rows = b"".join(_central(b"a/%d.png" % i, crc, len(body), 100_000, 0) for i in range(copies))
    path.write_bytes(local + rows + _end(copies, len(rows), len(local)))
    return path


def _central(name: bytes, crc: int, packed: int, size: int, offset: int) -> bytes:
    head = (b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, packed, size, len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3L5H2L", *head) + name


def _end(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, 0)


def huge_png(side: int = 13_000) -> bytes:
    """20 kB that declare 169 million pixels."""
    return blank_png(side, side)


def blank_png(width: int, height: int, *, rgba: bool = False) -> bytes:
    """All zeros: of one bit each, or of four channels."""
    row = zlib.compressobj(9)
    blank = b"\0" * (1 + (4 * width if rgba else (width + 7) // 8))
    body = b"".join(row.compress(blank) for _ in range(height)) + row.flush()
    head = struct.pack(">2L5B", width, height, 8 if rgba else 1, 6 if rgba else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
