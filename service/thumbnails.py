"""Small pictures for looking at many. Made with the one decoder; what is small already stays as it is."""

import io

from PIL import Image

from service import images

SIDE = 128  # px, of the longer side


def thumbnail(data: bytes, max_pixels: int, room_for: images.RoomFor) -> tuple[bytes, str]:
    """At most 128 px a side with the picture's own proportions: PNG where nothing was lost, else JPEG; its type."""
    # a large JPEG is decoded at a fraction of its size
    decoded = images.decode(data, SIDE, max_pixels=max_pixels, room_for=room_for)
    longer = max(decoded.width, decoded.height)
    if longer <= SIDE:
        return _encoded(images.decode(data, None, max_pixels=max_pixels).pixels, None, "PNG"), "image/png"
    size = (max(1, round(decoded.width * SIDE / longer)), max(1, round(decoded.height * SIDE / longer)))
    return _encoded(decoded.pixels, size, "JPEG"), "image/jpeg"


def _encoded(pixels: images.Pixels, size: tuple[int, int] | None, kind: str) -> bytes:
    image = Image.fromarray(pixels)
    if size is not None:
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=82)
    return buffer.getvalue()
