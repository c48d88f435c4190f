"""Pictures of the catalogue: verified, upright, RGB, and no larger than asked."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from maxsearch.data.tables.formats import BadRecord

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000  # a PNG of 400 KB can hold 400 million
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright

# Pillow warns from 89 million pixels on; the cap above is stricter and answers with a reason.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def fit_image(data: bytes, edge: int, *, quality: int = 90) -> bytes:
    """Verifies a picture by decoding all of it, and shrinks it to fit a square.

    Args:
      data: an encoded JPEG, PNG or WebP; of an animation the first frame counts.
      edge: the longest side of the result is at most this many pixels. Small pictures are never enlarged.
      quality: of the JPEG that is written, up to 95.

    Returns:
      `data` itself when it is an upright RGB JPEG that fits; else a JPEG, with transparency laid over white. Equal
      arguments give equal bytes.

    Raises:
      BadRecord: the bytes are no such picture, are damaged, or hold more than 50 million pixels.
    """
    image = _open(data)
    try:
        upright = image.getexif().get(ORIENTATION, 1) == 1
        if image.format == "JPEG" and image.mode == "RGB" and upright and max(image.size) <= edge:
            image.load()
            return data
        return _encode(_upright_rgb(image, edge), quality)
    except Exception as error:
        raise _undecodable(error) from None


def decode_image(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a picture to upright RGB.

    Raises:
      BadRecord: as `fit_image`.
    """
    image = _open(data)
    try:
        return np.array(_upright_rgb(image, None))
    except Exception as error:
        raise _undecodable(error) from None


def _open(data: bytes) -> Image.Image:
    """Reads a picture's header, and refuses what is too large before anything is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadRecord("undecodable_image", f"has an image of more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's parsers meet damaged bytes with errors of many kinds
        raise _undecodable(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadRecord(
            "undecodable_image", f"has an image of more than {MAX_PIXELS:,} pixels ({image.width} x {image.height})"
        )
    return image


def _upright_rgb(image: Image.Image, edge: int | None) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion would clip all above 255 to white.
        grey = (np.asarray(image).astype(np.int64).clip(0, 0xFFFF) >> 8).astype(np.uint8)
        flat = Image.fromarray(grey).convert("RGB")
        flat.info["exif"] = image.getexif().tobytes()
    elif image.has_transparency_data:
        colours = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(colours, mask=colours.getchannel("A"))
        flat.info["exif"] = image.getexif().tobytes()
    elif image.format == "JPEG" and edge is not None:
        flat = image  # not decoded yet, so that thumbnail may let libjpeg decode at a fraction of the size
    else:
        flat = image.convert("RGB")
    if edge is not None:
        flat.thumbnail((edge, edge), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return ImageOps.exif_transpose(flat).convert("RGB")


def _encode(image: Image.Image, quality: int) -> bytes:
    image.info.clear()  # comments of the source would be written again
    buffer = io.BytesIO()
    # Full chroma resolution: colour is much of what a shopper asks for.
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _undecodable(error: Exception) -> BadRecord:
    if isinstance(error, Image.UnidentifiedImageError):
        return BadRecord("undecodable_image", "has an image that is not a JPEG, PNG or WebP")
    return BadRecord("undecodable_image", f"has an image that cannot be decoded ({str(error) or type(error).__name__})")
