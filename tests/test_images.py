import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maxsearch.data.images import MAX_PIXELS, ORIENTATION, decode_image, fit_image
from maxsearch.data.tables.formats import BadRecord

RED, BLUE = (220, 30, 30), (30, 30, 220)


def _encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _halves(width: int, height: int) -> Image.Image:
    """The left half red, the right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def _near(pixel: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= tolerance)


def _huge_png(edge: int) -> bytes:
    """A PNG of edge x edge pixels whose pixel data is absent: only its header is needed to refuse it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_fitting_jpeg_is_returned_unchanged() -> None:
    data = _encode(_halves(60, 80), "JPEG")
    assert fit_image(data, 80) is data


def test_a_large_picture_is_shrunk_to_the_edge_and_a_small_one_is_not_enlarged() -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        small = fit_image(_encode(_halves(900, 300), form), 90)
        assert Image.open(io.BytesIO(small)).format == "JPEG"
        pixels = decode_image(small)
        assert pixels.shape == (30, 90, 3) and pixels.dtype == np.uint8
        assert _near(pixels[15, 20], RED) and _near(pixels[15, 70], BLUE)
    assert decode_image(fit_image(_encode(_halves(40, 20), "PNG"), 224)).shape == (20, 40, 3)


def test_equal_input_gives_equal_bytes() -> None:
    data = _encode(_halves(500, 400), "WEBP", lossless=True)
    assert fit_image(data, 224) == fit_image(data, 224)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("edge", [50, 400])
@pytest.mark.parametrize(
    ("orientation", "shape", "red"),
    [(3, (100, 200), "right"), (6, (200, 100), "top"), (8, (200, 100), "bottom")],
)
def test_exif_orientation_is_applied_and_dropped(
    form: str, edge: int, orientation: int, shape: tuple[int, int], red: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    fitted = fit_image(_encode(_halves(200, 100), form, exif=exif), edge)
    assert Image.open(io.BytesIO(fitted)).getexif().get(ORIENTATION, 1) == 1
    pixels = decode_image(fitted)
    scale = min(1, edge / 200)
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    assert pixels.shape == (height, width, 3)
    place = {
        "right": (height // 2, 3 * width // 4),
        "top": (height // 4, width // 2),
        "bottom": (3 * height // 4, width // 2),
    }
    assert _near(pixels[place[red]], RED)


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (20, 20), (220, 30, 30, 0))
    image.paste((220, 30, 30, 255), (0, 0, 10, 20))
    palette = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    for data in (_encode(image, "PNG"), _encode(image, "WEBP", lossless=True)):
        pixels = decode_image(fit_image(data, 224))
        assert _near(pixels[10, 3], RED) and _near(pixels[10, 16], (255, 255, 255))
    assert _near(decode_image(_encode(palette, "PNG", transparency=palette.getpixel((0, 0))))[10, 3], (255, 255, 255))


def test_other_colour_modes_become_rgb() -> None:
    for mode in ("L", "P", "1", "LA"):
        pixels = decode_image(fit_image(_encode(Image.new("RGB", (16, 16), "white").convert(mode), "PNG"), 224))
        assert pixels.shape == (16, 16, 3) and pixels.min() >= 250
    cmyk = _encode(Image.new("RGB", (64, 64), RED).convert("CMYK"), "JPEG")
    assert _near(decode_image(fit_image(cmyk, 16))[8, 8], RED)
    grey = _encode(Image.fromarray(np.full((16, 16), 0x8000, np.uint16)), "PNG")
    assert _near(decode_image(fit_image(grey, 224))[8, 8], (128, 128, 128), tolerance=2)


def test_a_stripe_keeps_at_least_one_pixel() -> None:
    assert decode_image(fit_image(_encode(Image.new("RGB", (2000, 1)), "PNG"), 64)).shape == (1, 64, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has an image that is not a JPEG, PNG or WebP"),
        (b"<html>not found</html>", "has an image that is not a JPEG, PNG or WebP"),
        (_encode(_halves(8, 8), "GIF"), "has an image that is not a JPEG, PNG or WebP"),
        (_encode(_halves(8, 8), "TIFF"), "has an image that is not a JPEG, PNG or WebP"),
        (_encode(_halves(300, 300), "JPEG", quality=95)[:-900], "cannot be decoded"),
        (_encode(Image.effect_noise((64, 64), 90), "PNG")[:900], "cannot be decoded"),
        (_encode(_halves(300, 300), "WEBP")[:-40], "cannot be decoded|not a JPEG"),
        (_huge_png(7072), f"has an image of more than {MAX_PIXELS:,} pixels \\(7072 x 7072\\)"),
        (_huge_png(20000), "has an image of more than 50,000,000 pixels"),
    ],
)
def test_unusable_pictures(data: bytes, reason: str) -> None:
    for action in (lambda: fit_image(data, 224), lambda: decode_image(data)):
        with pytest.raises(BadRecord, match=reason) as caught:
            action()
        assert caught.value.code == "undecodable_image"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), form=st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_damaged_bytes_are_a_bad_record_or_a_picture(data: st.DataObject, form: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    raw = bytearray(_encode(_halves(24, 16), form, exif=exif))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        fitted = fit_image(bytes(raw), 12)
    except BadRecord:
        return
    assert max(decode_image(fitted).shape[:2]) <= 12
