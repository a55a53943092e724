"""What decoding a picture may take in memory, told by its header. It decodes nothing, and holds nobody up."""

from typing import Final

from PIL import Image

AT_ONCE: Final = 1 << 20  # numbers turned into bytes together: those of a whole picture would need gigabytes
TILE_BYTES: Final = 16  # of a pixel of a TIFF's tile: four channels of 32 bits, more than any mode has

_COPY_BYTES = 4  # of a pixel in each of Pillow's pictures of more than a channel
_BYTES_EACH = {  # of a pixel, as it is kept and as it becomes RGB; two copies where nothing is said
    **dict.fromkeys(("RGB", "RGBX"), _COPY_BYTES),
    **dict.fromkeys(("1", "L", "P"), 1 + _COPY_BYTES),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), 2 + 4 + _COPY_BYTES),
    **dict.fromkeys(("I", "F"), 4 + 8 + _COPY_BYTES),
}
_WORK_BYTES = 16  # of a pixel on its way to RGB, of those that go together
_WEBP_BYTES = 12  # two canvases, and what it hands out
_ROW_BYTES = 24  # where each row of three copies lies
_WEIGHT_BYTES = 16  # of the filter that squeezes, for each pixel of a side


def of(image: Image.Image, size: int | None) -> int:
    """At most so many bytes for an opened picture that is to be squeezed to `size`, or to stay as large as it is: its
    copies, one of them turned, and what squeezing takes."""
    each = _BYTES_EACH.get(image.mode, 2 * _COPY_BYTES) + _COPY_BYTES
    if "transparency" in image.info:
        each = max(each, 3 * _COPY_BYTES)
    if image.format == "WEBP":
        each += _WEBP_BYTES
    if size is None:
        each += 9  # three bytes of an array, twice over before they are together
    pixels = image.width * image.height
    work = 0 if image.mode == "RGB" else _WORK_BYTES * min(pixels, AT_ONCE)
    return each * pixels + work + _of_sides(image.width, image.height)


def of_pixels(width: int, height: int) -> int:
    """At most so many bytes to squeeze RGB pixels that are there already."""
    return 2 * _COPY_BYTES * width * height + _of_sides(width, height)


def _of_sides(width: int, height: int) -> int:
    """What comes for each row and column, which is much for pictures of one. Squeezed in one direction it is small."""
    return (_ROW_BYTES + _WEIGHT_BYTES) * (width + height)
