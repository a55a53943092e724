"""Every picture comes out upright, in 8-bit RGB, or with a reason."""

import contextlib
import gc
import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from service import images
from service.errors import InvalidValue, ServiceError
from tests import hostile

LIMIT = 50_000_000


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def code(data: bytes, size: int | None = 32) -> str:
    with pytest.raises(ServiceError) as caught:
        images.decode(data, size, max_pixels=LIMIT)
    assert caught.value.hint
    return caught.value.code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_decodes_and_every_cut_is_named(kind: str) -> None:
    data = hostile.picture(kind, 40)
    decoded = images.decode(data, 32, max_pixels=LIMIT)
    assert (decoded.format, decoded.width, decoded.pixels.shape) == (kind, 40, (32, 32, 3))
    assert decoded.pixels.flags.c_contiguous
    assert code(data[: len(data) // 2]) in ("image_truncated", "image_corrupt")


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused() -> None:
    assert images.decode(hostile.many_scans(64, 20), 32, max_pixels=LIMIT).width == 64
    assert code(hostile.many_scans(64, 1000)) == "too_many_scans"
    lied = hostile.many_scans(64, 1000).replace(b"\xff\xda", b"\xff\xff\xff\xda")  # filled, as T.81 allows
    assert code(lied) == "too_many_scans"


def test_plain_is_what_costs_no_more_than_its_pixels() -> None:
    chatty = hostile.chatty_png(8, 15)
    assert len(chatty) < 20_000
    assert images.decode(chatty, 8, max_pixels=LIMIT).width == 8
    assert images.is_plain(hostile.picture("PNG"))
    assert images.is_plain(hostile.picture("JPEG"))
    assert not images.is_plain(chatty)
    assert not images.is_plain(hostile.many_scans(64, 20))
    assert not images.is_plain(hostile.picture("TIFF"))


def test_numbers_are_turned_into_bytes_piece_by_piece() -> None:
    values = np.random.default_rng(0).normal(0, 1e6, (1100, 1000)).astype(np.float32)  # more than fit into one piece
    values[0, 0], values[-1, -1], values[5, 5] = np.nan, np.inf, -np.inf
    found = images.decode(encoded(Image.fromarray(values), "TIFF"), None, max_pixels=LIMIT).pixels[..., 0]
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = finite.min(), finite.max()
    known = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    assert np.array_equal(found, np.rint((known - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8))


def test_bytes_of_no_picture_are_not_a_picture() -> None:
    assert {code(b""), code(b"hello"), code(b"%PDF-1.7"), code(b"\0" * 100)} == {"not_a_picture"}


def test_a_small_file_of_many_pixels_is_refused_from_its_header() -> None:
    data = hostile.huge_png()
    assert len(data) < 25_000
    assert code(data) == "too_many_pixels"


def test_random_damage_is_a_named_error_or_a_picture() -> None:
    random = np.random.default_rng(0)
    for kind in ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"] * 40:
        data = bytearray(hostile.picture(kind, 24))
        for at in random.integers(0, len(data), 6):
            data[at] = random.integers(256)
        with contextlib.suppress(ServiceError):
            assert images.decode(bytes(data), 32, max_pixels=LIMIT).pixels.shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_all_orientations_give_the_same_upright_picture(kind: str, turn: int) -> None:
    upright = Image.fromarray(np.repeat(np.arange(0, 240, 4, np.uint8)[:, None], 90, 1)).convert("RGB")
    upright.paste((255, 0, 0), (0, 0, 20, 20))
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    turned = upright.transpose(images._TURN[back[turn]]) if turn > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    decoded = images.decode(encoded(turned, kind, exif=exif, **options), None, max_pixels=LIMIT)
    assert (decoded.width, decoded.height) == (90, 60)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(upright)).mean() < 1.5


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_levels(kind: str) -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(64, 64))
    pixels = images.decode(encoded(ramp, kind), None, max_pixels=LIMIT).pixels
    assert len(np.unique(pixels)) >= 250
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("mode", "colour", "expected", "kind"),
    [
        ("1", 1, (255, 255, 255), "PNG"),
        ("L", 100, (100, 100, 100), "PNG"),
        ("LA", (0, 0), (255, 255, 255), "PNG"),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255), "PNG"),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0), "PNG"),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), "TIFF"),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), "JPEG"),
        ("F", 0.5, (128, 128, 128), "TIFF"),
        ("I", 65535, (255, 255, 255), "TIFF"),
    ],
)
def test_every_mode_becomes_rgb_as_the_table_says(mode: str, colour: object, expected: object, kind: str) -> None:
    data = encoded(Image.new(mode, (40, 40), colour), kind)  # type: ignore[arg-type]
    pixel = images.decode(data, 32, max_pixels=LIMIT).pixels[5, 5].astype(int)
    assert np.abs(pixel - np.array(expected)).max() <= 3


def with_transparency() -> dict[str, bytes]:
    """A picture of noise for each way to be transparent."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.integers(0, 256, shape, dtype=np.uint8)

    unassociated, associated = (struct.pack("<2HLHH", 338, 3, 1, kind, 0) for kind in (2, 1))  # what alpha is
    rgba, grey = Image.fromarray(noise(50, 70, 4), "RGBA"), Image.fromarray(noise(50, 70))
    coloured = Image.fromarray(noise(50, 70, 3)).quantize(40)
    return {
        "RGBA": encoded(rgba),
        "LA": encoded(Image.fromarray(noise(50, 70, 2), "LA")),
        "RGBa": encoded(rgba, "TIFF").replace(unassociated, associated),
        "WEBP": encoded(rgba, "WEBP", lossless=True, exact=True),
        "palette, a colour": encoded(coloured, transparency=3),
        "palette, alphas": encoded(coloured, transparency=bytes(range(0, 240, 6))),
        "GIF": encoded(coloured, "GIF", transparency=3),
        "grey, a colour": encoded(grey, transparency=int(noise(1)[0])),
        "RGB, a colour": encoded(Image.fromarray(noise(50, 70, 3) // 128 * 255), transparency=(255, 0, 255)),
        "bits": encoded(grey.convert("1"), transparency=0),
    }


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("piece", [60, 1000, 1 << 20])  # pixels: parts of a row, some rows, all
@pytest.mark.parametrize("kind", with_transparency())
def test_laid_on_white_piece_by_piece_it_is_what_it_was_as_a_whole(
    kind: str, piece: int, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = with_transparency()[kind]
    with Image.open(io.BytesIO(data)) as image:
        front = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        whole = Image.alpha_composite(Image.new("RGBA", front.size, (255, 255, 255, 255)), front).convert("RGB")
    monkeypatch.setattr(images, "_orientation", lambda image: turn)
    monkeypatch.setattr(images, "_PIECE", piece)
    turned = whole if turn == 1 else whole.transpose(images._TURN[turn])
    for size in (None, 20):
        expected = turned if size is None else turned.resize((size, size), Image.Resampling.BILINEAR)
        assert np.array_equal(images.decode(data, size, max_pixels=LIMIT).pixels, np.asarray(expected))
    assert front.getextrema()[3][0] < 255  # type: ignore[index]


def test_lab_becomes_rgb() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (40, 40), (200, 30, 40)), to_lab)
    pixel = images.decode(encoded(lab, "TIFF"), 32, max_pixels=LIMIT).pixels[5, 5].astype(int)
    assert np.abs(pixel - (200, 30, 40)).max() <= 4


def test_grey_is_seen_whatever_the_mode() -> None:
    assert images.decode(encoded(Image.new("RGB", (9, 9), (7, 7, 7))), 8, max_pixels=LIMIT).grey
    assert not images.decode(hostile.picture(), 8, max_pixels=LIMIT).grey


def test_the_cap_counts_pixels() -> None:
    with pytest.raises(InvalidValue, match="too_many_pixels"):
        images.decode(hostile.picture(side=16), 8, max_pixels=255)


# Memory


def test_a_tile_larger_than_a_picture_may_be_is_refused() -> None:
    assert images.decode(hostile.tiled_tiff(100, 112), 32, max_pixels=LIMIT).width == 100
    bomb = hostile.tiled_tiff(100, 16384)
    assert len(bomb) < 200
    assert code(bomb) == "too_many_pixels"
    # libtiff believes the first of two tags, Pillow the last
    assert code(hostile.tiled_tiff(100, 16384, twin=112)) == "image_corrupt"
    assert code(hostile.tiled_tiff(100, 112, twin=16384)) == "image_corrupt"


def test_a_reason_keeps_no_picture_in_memory() -> None:
    cut = hostile.picture(side=600)[:-50_000]
    reasons = []
    for _ in range(3):
        with pytest.raises(ServiceError) as caught:
            images.decode(cut, 32, max_pixels=LIMIT)
        reasons.append(caught.value)
    assert [one.code for one in reasons] == ["image_truncated"] * 3
    assert not [one for one in gc.get_objects() if issubclass(type(one), Image.Image) and one.size == (600, 600)]


def test_only_what_is_not_small_asks_for_room() -> None:
    asked = list[int]()

    @contextlib.contextmanager
    def room_for(size: int) -> Iterator[None]:
        asked.append(size)
        yield

    for side in (64, 500, 3000):
        photo = encoded(Image.new("RGB", (side, side)), "JPEG")
        images.decode(photo, 64, max_pixels=LIMIT, room_for=room_for)  # at an eighth of its size
        images.decode(hostile.picture("PNG", min(side, 500)), 64, max_pixels=LIMIT, room_for=room_for)
    assert asked == []
    for data in (encoded(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True), hostile.blank_png(2000, 2000)):
        images.decode(data, 64, max_pixels=LIMIT, room_for=room_for)
    assert len(asked) == 2


PROBE = """
import json, sys
from contextlib import contextmanager
from pathlib import Path
from service import images
from tests import hostile

def now(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

images.SMALL_BYTES = 0
told = []

@contextmanager
def room_for(size):
    told.append(size)
    yield

images.decode(hostile.picture(side=16), 224, max_pixels=10**9)
for path in map(Path, sys.argv[1:]):
    data, size = path.read_bytes(), 224
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is that of now
    before = now("VmRSS")
    images.decode(data, None if path.suffix == ".whole" else size, max_pixels=10**9, room_for=room_for)
    print(json.dumps([told.pop(), now("VmHWM") - before]))
"""


def large_pictures() -> dict[str, bytes]:
    side = 1400
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    grey = Image.fromarray(noise)
    rgb, turned = Image.merge("RGB", [grey] * 3), Image.Exif()
    turned[0x0112] = 6
    rgba = Image.merge("RGBA", [grey] * 4)
    deep = Image.fromarray(noise.astype(np.uint16) * 257)
    return {
        "grey": encoded(grey, compress_level=1),
        "rgb": encoded(rgb, compress_level=1),
        "rgb turned": encoded(rgb, "TIFF", exif=turned),
        "rgb.whole": encoded(rgb, "BMP"),
        "rgba": encoded(rgba, compress_level=1),
        "rgba, webp": encoded(rgba.resize((side, side)), "WEBP", lossless=True, method=0, quality=0),
        "rgb, webp": encoded(rgb, "WEBP", method=0),
        "palette": encoded(rgb.quantize(16), compress_level=1, transparency=3),
        "gif": encoded(rgb.quantize(16), "GIF"),
        "cmyk": encoded(rgb.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "deep": encoded(deep, "TIFF"),
        "numbers": encoded(Image.fromarray(noise.astype(np.int32) - 100), "TIFF"),
        "fractions": encoded(Image.fromarray(noise.astype(np.float32)), "TIFF"),
        "scans": encoded(rgb, "JPEG", progressive=True),
        "tile": hostile.tiled_tiff(side, 3200),
        "narrow": hostile.blank_png(1, 2_000_000),
        "flat": hostile.blank_png(2_000_000, 1),
    }


def test_decoding_takes_no_more_memory_than_was_told_before(tmp_path: Path) -> None:
    kinds = large_pictures()
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *(str(tmp_path / name) for name in kinds)],
        env={"PATH": "", "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is given back is gone
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    for name, line in zip(kinds, done.stdout.splitlines(), strict=True):
        told, taken = json.loads(line)
        assert taken <= told * 1.05 + 4 * 2**20, (name, told, taken)
        assert told <= 3 * taken + 8 * 2**20 or name == "tile", (name, told, taken)
