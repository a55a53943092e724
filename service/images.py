"""The one decoder: bytes of a picture to 8-bit RGB pixels. Import, training cache, evaluation and classify all call it.

It knows no archive, no dataset, no network and no normalisation; it never looks at a file name.

What each Pillow mode becomes:

| mode                       | pixels                                                                             |
|----------------------------|------------------------------------------------------------------------------------|
| RGB, RGBX                  | as they are                                                                        |
| 1, L                       | repeated in three channels; 1 is black or white                                    |
| P                          | through its palette                                                                |
| RGBA, RGBa, LA, La, PA     | laid on white; likewise 1, L, P and RGB with a transparent colour                  |
| CMYK (and YCCK JPEG)       | Pillow's conversion, without colour profile                                        |
| YCbCr, HSV                 | Pillow's conversion                                                                |
| LAB                        | through LittleCMS to sRGB                                                          |
| I;16, I;16L, I;16B, I;16N  | 0..65535 scaled to 0..255, rounded                                                 |
| I                          | within 0..65535 like I;16, else stretched from its least to its greatest value     |
| F                          | within 0..1 times 255, within 0..255 rounded, else stretched likewise; NaN is least |

Embedded colour profiles are not applied. Of an animation or a multi-picture file (GIF, APNG, WEBP, TIFF, MPO) the first
frame counts. EXIF orientation is applied; metadata that cannot be read is ignored: a photo with a damaged EXIF block is
still a photo.

Nobody can stop a decoder half-way, so what it may cost is bounded before it begins: in pixels, and in passes over them.
What it may take in memory is told from the header, to whoever has to keep many decoders within a limit (`room_for`).
"""

import io
import re
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from service import footprint
from service.errors import InvalidValue, ServiceError, UnsupportedMediaType

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # as JPEG, an MPO gives its first frame
MAX_SCANS: Final = 32  # of a JPEG over its pixels, each as dear as a whole picture: encoders write some ten
PLAIN_SCANS: Final = 12
RESIZE: Final = {"mode": "squash", "filter": "bilinear", "antialias": True}  # goes into the model card

SMALL_BYTES: Final = 8 * 1024**2  # of memory for decoding, about which nobody is asked

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[Any]

RoomFor = Callable[[int], AbstractContextManager[None]]
"""Given the bytes that decoding a picture may take in memory, waits until there is room for them, and keeps it."""

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is one per process and half of it only warns; ours is an argument

_COMPRESSED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")  # of a PNG, up to a thousand times as long when they are read
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # of a JPEG; in between are stuffed bytes and restarts
_END, _SCAN, _ALONE = 0xD9, 0xDA, (0x01, 0xD8)
_PIECE = 1 << 18  # pixels laid on white together
_TILE_SIDES = (322, 323)  # tags of a TIFF: width and length of its tiles
_WHITE = (255, 255, 255, 255)
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    pixels: Pixels  # (S, S, 3), or (height, width, 3) without a size; RGB, C-contiguous
    width: int  # of the upright picture, before any resizing
    height: int
    format: str

    @cached_property
    def grey(self) -> bool:
        red, green, blue = self.pixels[..., 0], self.pixels[..., 1], self.pixels[..., 2]
        return bool(np.array_equal(red, green) and np.array_equal(green, blue))


def decode(data: bytes, size: int | None, *, max_pixels: int, room_for: RoomFor | None = None) -> Decoded:
    """The whole picture, upright, squeezed to `size` x `size`; every failure is a ServiceError with a reason.

    Only for what is not small it asks `room_for`, and keeps the room until nothing of the picture is left.
    """
    _silence_metadata_warnings()
    with ExitStack() as room:
        try:
            return _decode(data, size, max_pixels, lambda needed: _take(room, room_for, needed))
        except Exception as error:  # eight types are known to come out of Pillow, so any may
            _forget(error)
            if isinstance(error, ServiceError):
                raise
            raise _named(error, data) from error


def from_pixels(pixels: Pixels, size: int, *, max_pixels: int, room_for: RoomFor | None = None) -> Decoded:
    """(height, width, 3) RGB, squeezed as a lossless file of these pixels would be."""
    height, width = pixels.shape[:2]
    _check_pixels(width, height, max_pixels)
    with ExitStack() as room:
        _take(room, room_for, footprint.of_pixels(width, height))
        return Decoded(_squeeze(Image.fromarray(pixels), size), width, height, "pixels")


def from_any(picture: bytes | Pixels, size: int, *, max_pixels: int, room_for: RoomFor | None = None) -> Decoded:
    """An encoded picture, or (height, width, 3) pixels."""
    if isinstance(picture, bytes):
        return decode(picture, size, max_pixels=max_pixels, room_for=room_for)
    return from_pixels(picture, size, max_pixels=max_pixels, room_for=room_for)


def is_plain(data: bytes) -> bool:
    """Does a picture of few pixels take no longer than they do? Not what a decoder might unpack beside them."""
    kind = signature(data)
    if kind == "PNG":
        return not any(name in data for name in _COMPRESSED_CHUNKS)
    return kind == "JPEG" and _scans(data) <= PLAIN_SCANS


def _decode(data: bytes, size: int | None, max_pixels: int, take: Callable[[int], None]) -> Decoded:
    """`take` is called with the bytes that it needs, before it takes them."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        _check_pixels(width, height, max_pixels)
        beside = _check_jpeg(image, data) if image.format in ("JPEG", "MPO") else 0
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            beside = _check_tiles(image, data, max_pixels)
        if size is not None and image.format in ("JPEG", "MPO"):
            image.draft(image.mode, (2 * size, 2 * size))  # decodes at 1/2, 1/4 or 1/8, never below twice the size
        take(footprint.of(image, size) + beside)
        pixels, turned = _pixels(image, size, max_pixels)
    if turned:
        width, height = height, width
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return Decoded(pixels, width, height, name)


def _pixels(image: Image.Image, size: int | None, max_pixels: int) -> tuple[Pixels, bool]:
    """Those of `Decoded`, and whether the picture lay on its side."""
    image.load()
    _check_pixels(*image.size, max_pixels)
    turn = _orientation(image)
    rgb = _to_rgb(image)
    if turn in _TURN:
        rgb = rgb.transpose(_TURN[turn])
    return _squeeze(rgb, size), turn >= 5


def _squeeze(rgb: Image.Image, size: int | None) -> Pixels:
    if size is not None and rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(rgb, dtype=np.uint8, order="C")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidValue(
            "too_many_pixels",
            f"The picture has {width} x {height} pixels; at most {max_pixels} are accepted.",
            hint="Make it smaller, or raise FOVEA_MAX_IMAGE_PIXELS.",
        )


def _check_jpeg(image: Image.Image, jpeg: bytes) -> int:
    """Bytes that its decoder keeps beside the pixels: all coefficients, where it goes over them several times."""
    scans = _scans(jpeg)
    if scans > MAX_SCANS:
        raise InvalidValue(
            "too_many_scans",
            f"The JPEG goes over its pixels more than {MAX_SCANS} times.",
            hint="Save it as a baseline or an ordinary progressive JPEG.",
        )
    return 2 * len(image.getbands()) * image.width * image.height if scans > 1 else 0


def _scans(jpeg: bytes) -> int:
    """Passes over the pixels of the first picture, as its markers tell (ITU-T T.81, annex B)."""
    found, at = 0, 2
    while marker := _MARKER.search(jpeg, at):
        at, code = marker.end(), jpeg[marker.end() - 1]
        if code == _END:
            break
        if code not in _ALONE:
            found += code == _SCAN
            at += int.from_bytes(jpeg[at : at + 2], "big")  # of the segment, these two bytes included
    return found


def _check_tiles(image: TiffImagePlugin.TiffImageFile, tiff: bytes, max_pixels: int) -> int:
    """Bytes of a tile, unpacked whole however little the picture shows of it. A strip has no more than that."""
    found = [tag for tag in _tags(tiff, image) if tag in _TILE_SIDES]
    if not found:
        return 0
    width, height = (image.tag_v2.get(tag) for tag in _TILE_SIDES)
    if len(found) != 2 or not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        raise ValueError("nobody can tell how large its tiles are")
    _check_pixels(width, height, max_pixels)
    return footprint.TILE_BYTES * width * height


def _tags(tiff: bytes, image: TiffImagePlugin.TiffImageFile) -> list[int]:
    """Of the directory that is read, with repetitions: of twins Pillow takes the last, and libtiff the first."""
    order, big = "<" if tiff[:2] == b"II" else ">", 43 in tiff[2:4]
    counted, entry_bytes = ("Q", 20) if big else ("H", 12)
    start = image.tag_v2.offset + struct.calcsize(counted)
    (count,) = struct.unpack_from(order + counted, tiff, image.tag_v2.offset)
    ends = min(start + count * entry_bytes, len(tiff) - entry_bytes + 1)
    return [struct.unpack_from(order + "H", tiff, place)[0] for place in range(start, ends, entry_bytes)]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  unreadable metadata: taken as upright
        return 1


def _take(room: ExitStack, room_for: RoomFor | None, needed: int) -> None:
    if room_for is not None and needed > SMALL_BYTES:
        room.enter_context(room_for(needed))


# Modes


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SPECIAL:
        return _SPECIAL[image.mode](image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Piece by piece, where the picture is large: as a whole it would take four copies."""
    if image.width * image.height <= _PIECE:
        return _piece_on_white(image)
    rgb = Image.new("RGB", image.size)
    for box in _pieces(*image.size):
        rgb.paste(_piece_on_white(image.crop(box)), box)
    return rgb


def _pieces(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of at most _PIECE pixels."""
    rows = max(_PIECE // width, 1)
    for top in range(0, height, rows):
        for left in range(0, width, _PIECE):
            yield left, top, min(left + _PIECE, width), min(top + rows, height)


def _piece_on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    front = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", front.size, _WHITE), front).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    return _in_bytes(np.asarray(image), lambda values: (values.astype(np.uint32) + 128) // 257)


def _from_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 0xFFFF:
        return _from_16_bit(image)
    return _stretch(values, low, high)


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(values)
    low = float(values.min(where=finite, initial=np.inf)) if finite.any() else 0.0
    high = float(values.max(where=finite, initial=-np.inf)) if finite.any() else 1.0
    if low >= 0 and high <= 255:
        return _stretch(values, 0.0, 1.0 if high <= 1 else 255.0, low, high)
    return _stretch(values, low, high)


def _stretch(
    values: Numbers, low: float, high: float, least: float | None = None, greatest: float | None = None
) -> Image.Image:
    """`low` becomes 0 and `high` 255. What is no finite number is `least` or `greatest` (`low` and `high`)."""
    bottom, top = low if least is None else least, high if greatest is None else greatest

    def scaled(some: Numbers) -> Numbers:
        known = np.nan_to_num(some.astype(np.float32), nan=bottom, posinf=top, neginf=bottom)
        return np.clip(np.rint((known.astype(np.float64) - low) * (255 / max(high - low, 1e-12))), 0, 255)

    return _in_bytes(values, scaled)


def _in_bytes(values: Numbers, scaled: Callable[[Numbers], Numbers]) -> Image.Image:
    """(H, W) numbers, of which `scaled` makes 0..255 for some at a time -> grey."""
    found = np.empty(values.shape, np.uint8)
    numbers, into = values.reshape(-1), found.reshape(-1)
    for at in range(0, numbers.size, footprint.AT_ONCE):
        into[at : at + footprint.AT_ONCE] = scaled(numbers[at : at + footprint.AT_ONCE])
    return Image.fromarray(found).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    return cast(Image.Image, turned)  # None only with inPlace=True


_SPECIAL: dict[str, Callable[[Image.Image], Image.Image]] = {
    "I;16": _from_16_bit,
    "I;16L": _from_16_bit,
    "I;16B": _from_16_bit,
    "I;16N": _from_16_bit,
    "I": _from_integers,
    "F": _from_floats,
    "LAB": _from_lab,
}


# Failures


def _forget(error: BaseException | None) -> None:
    """Lets go of the variables on the way to an error: the picture is among them, as long as anybody has the reason."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _named(error: Exception, data: bytes) -> ServiceError:
    kind = signature(data)
    if kind is None:
        return UnsupportedMediaType(
            "not_a_picture",
            "The bytes are not a picture in a known format.",
            hint="Accepted are JPEG, PNG, WEBP, GIF, BMP and TIFF.",
        )
    if _ends_early(kind, data) or "truncated" in str(error).lower() or isinstance(error, EOFError):
        return InvalidValue(
            "image_truncated",
            f"The {kind} picture ends before its last pixel.",
            hint="Copy or download the file again; it is incomplete.",
        )
    return InvalidValue(
        "image_corrupt",
        f"The {kind} picture cannot be decoded ({type(error).__name__}).",
        hint="Open it in a picture editor and save it again, or leave it out.",
    )


def signature(data: bytes) -> str | None:
    """The format that the first bytes promise, as Pillow names it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), None)


_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}


def _ends_early(kind: str, data: bytes) -> bool:
    if kind == "PNG":
        return b"IEND" not in data
    if kind == "JPEG":
        return b"\xff\xd9" not in data
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return kind == "BMP" and int.from_bytes(data[2:6], "little") > len(data)


def _silence_metadata_warnings() -> None:
    """What Pillow warns of is metadata or pixel counts; `catch_warnings` is not thread-safe, one filter for PIL is."""
    if not any(kept[3] is not None and getattr(kept[3], "pattern", "") == "PIL" for kept in warnings.filters[:2]):
        warnings.filterwarnings("ignore", module="PIL")
