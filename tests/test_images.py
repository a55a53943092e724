"""Every picture comes out upright, in 8-bit RGB, or with a reason."""

import contextlib
import gc
import io
import struct

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


def test_a_reason_keeps_no_picture_in_memory() -> None:
    cut = hostile.picture(side=600)[:-50_000]
    reasons = []
    for _ in range(3):
        with pytest.raises(ServiceError) as caught:
            images.decode(cut, 32, max_pixels=LIMIT)
        reasons.append(caught.value)
    assert [one.code for one in reasons] == ["image_truncated"] * 3
    assert not [one for one in gc.get_objects() if issubclass(type(one), Image.Image) and one.size == (600, 600)]
