"""Pictures to fixed arrays, and the random changes of training examples.

A picture is seen on a canvas of the target's aspect ratio: as large as fits, centred, white around it. `eval_image`
renders the whole canvas, `train_image` a random box of it. So both show the product in the same surroundings.
"""

import math
import threading
from collections.abc import Hashable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from maxsearch.config import Augment
from maxsearch.data.images import MAX_PIXELS, decode_image

# A large JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the pixels needed along each side.
DECODE_MARGIN = 2.0

WHITE = 255

ImageArray = UInt8[np.ndarray, "H W 3"]


class Box(NamedTuple):
    """A rectangle in pixels: left, top, width, height."""

    left: float
    top: float
    width: float
    height: float


class ImageCache:
    """Decoded pictures in memory, up to a number of bytes.

    Nothing is evicted: examples are drawn in random order, so a full cache serves its share of them at no further cost.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._images: dict[Hashable, Image.Image] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> int:
        return self._max_bytes  # a worker process fills its own

    def __setstate__(self, max_bytes: int) -> None:
        self.__init__(max_bytes)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._images)

    def get(self, key: Hashable) -> Image.Image | None:
        """The picture kept under `key`, or None."""
        return self._images.get(key)

    def put(self, key: Hashable, image: Image.Image) -> None:
        """Keeps a picture if there is room."""
        size = image.width * image.height * 4  # Pillow holds RGB in four bytes a pixel
        with self._lock:
            if key not in self._images and self._bytes + size <= self._max_bytes:
                self._bytes += size
                self._images[key] = image


def decode(data: bytes, size: tuple[int, int], zoom: float = 1.0) -> Image.Image:
    """Decodes a picture as upright RGB, transparency over white.

    Args:
      data: JPEG, PNG or WebP.
      size: (height, width) that the picture will be rendered at. A large JPEG is decoded at a fraction of its size.
      zoom: how much larger than `size` a rendered box may show the picture.

    Raises:
      BadRecord: as `decode_image`.
    """
    try:
        image = JpegImageFile(BytesIO(data))
        plain = image.mode == "RGB" and "exif" not in image.info
        if plain and image.width * image.height <= MAX_PIXELS:
            fit = min(size[0] / image.height, size[1] / image.width) * zoom * DECODE_MARGIN
            if fit <= 0.5:
                image.draft("RGB", (math.ceil(image.width * fit), math.ceil(image.height * fit)))
            image.load()
            return image
    except Exception:  # no JPEG, or a damaged one: the slower way below tries again, and names the reason
        return Image.fromarray(decode_image(data))
    return Image.fromarray(decode_image(data))


def eval_image(data: bytes | None, size: tuple[int, int]) -> ImageArray:
    """Renders a whole picture.

    Args:
      data: JPEG, PNG or WebP; None gives a white array.
      size: (H, W).

    Returns:
      uint8 [H, W, 3]: the picture as large as fits without distortion, centred, white around it.

    Raises:
      BadRecord: the bytes cannot be decoded.
    """
    if data is None:
        return np.full((*size, 3), WHITE, np.uint8)
    return render(decode(data, size), size, None)


def train_image(data: bytes, size: tuple[int, int], rng: np.random.Generator, options: Augment) -> ImageArray:
    """Renders a random box of a picture, mirrored half of the time.

    Args:
      data: JPEG, PNG or WebP.
      size: (H, W).
      rng: consumed by the same number of draws for every picture.
      options: what to change and how far.

    Returns:
      uint8 [H, W, 3].

    Raises:
      BadRecord: the bytes cannot be decoded.
    """
    return augment_image(decode(data, size, zoom_of(options)), size, rng, options)


def zoom_of(options: Augment) -> float:
    """The most that a random box enlarges a picture along one side."""
    stretch = max(options.ratio[1], 1 / options.ratio[0])
    return math.sqrt(max(stretch, 1.0) / options.scale[0])


def augment_image(image: Image.Image, size: tuple[int, int], rng: np.random.Generator, options: Augment) -> ImageArray:
    """Renders a random box of a decoded picture; see `train_image`."""
    area, stretch, left, top, mirror, brightness, contrast = rng.random(7).tolist()
    canvas = canvas_of(image, size)
    low, high = options.scale
    fraction = low + (high - low) * area
    low, high = math.log(options.ratio[0]), math.log(options.ratio[1])
    side = math.exp((low + (high - low) * stretch) / 2)
    width = min(1.0, math.sqrt(fraction) * side) * canvas.width
    height = min(1.0, math.sqrt(fraction) / side) * canvas.height
    box = Box(
        _place(left, width, image.width, canvas.left, canvas.width),
        _place(top, height, image.height, canvas.top, canvas.height),
        width,
        height,
    )
    pixels = render(image, size, box)
    if options.flip and mirror < 0.5:
        pixels = pixels[:, ::-1]
    if options.brightness or options.contrast:
        bright = 1 + options.brightness * (2 * brightness - 1)
        steep = 1 + options.contrast * (2 * contrast - 1)
        light = pixels.astype(np.float32) * bright
        mean = light.mean()
        pixels = np.clip((light - mean) * steep + mean + 0.5, 0, 255).astype(np.uint8)
    return pixels


def canvas_of(image: Image.Image, size: tuple[int, int]) -> Box:
    """The smallest box of the target's aspect ratio that holds the picture in its centre, in the picture's pixels."""
    scale = max(image.width / size[1], image.height / size[0])
    width, height = size[1] * scale, size[0] * scale
    return Box((image.width - width) / 2, (image.height - height) / 2, width, height)


def _place(u: float, length: float, extent: int, canvas_start: float, canvas_length: float) -> float:
    """Start of a box of `length` on the canvas: inside the picture (0 to extent), or around it when that is smaller."""
    if length <= extent:
        first, last = 0.0, extent - length
    else:
        first = max(canvas_start, extent - length)
        last = min(0.0, canvas_start + canvas_length - length)
    return first + (last - first) * u


def render(image: Image.Image, size: tuple[int, int], box: Box | None) -> ImageArray:
    """Renders a box of the canvas.

    Args:
      image: RGB.
      size: (H, W).
      box: in the picture's pixels, may reach over its edges, where white is shown; None for the whole canvas.

    Returns:
      uint8 [H, W, 3].
    """
    H, W = size
    box = box or canvas_of(image, size)
    columns = _span(box.left, box.width, image.width, W)
    rows = _span(box.top, box.height, image.height, H)
    source = (columns.source[0], rows.source[0], columns.source[1], rows.source[1])
    width, height = columns.target[1] - columns.target[0], rows.target[1] - rows.target[0]
    if image.size == (width, height) and source == (0, 0, width, height):
        patch = image
    else:
        patch = image.resize((width, height), Image.Resampling.BILINEAR, box=source)
    pixels = np.frombuffer(patch.tobytes(), np.uint8).reshape(height, width, 3)
    if (height, width) == (H, W):
        return pixels
    canvas = np.full((H, W, 3), WHITE, np.uint8)
    canvas[rows.target[0] : rows.target[1], columns.target[0] : columns.target[1]] = pixels
    return canvas


class _Span(NamedTuple):
    source: tuple[float, float]
    target: tuple[int, int]


def _span(start: float, length: float, extent: int, pixels: int) -> _Span:
    """The part of a picture's axis that a box shows, and the target pixels it covers (at least one)."""
    low, high = max(start, 0.0), min(start + length, float(extent))
    first = min(max(round((low - start) / length * pixels), 0), pixels - 1)
    last = min(max(round((high - start) / length * pixels), first + 1), pixels)
    return _Span((low, high), (first, last))


def drop_words(text: str, probability: float, rng: np.random.Generator) -> str:
    """Leaves out each word of a text with a probability; at least one word stays."""
    if probability <= 0.0:
        return text
    words = text.split()
    if len(words) < 2:
        return text
    keep = rng.random(len(words)) >= probability
    if not keep.any():
        keep[rng.integers(len(words))] = True
    return " ".join(word for word, kept in zip(words, keep, strict=True) if kept)


def drop_modality(rng: np.random.Generator, options: Augment, has_title: bool, has_image: bool) -> tuple[bool, bool]:
    """Decides which of title and picture a sample keeps.

    Returns:
      (keeps title, keeps image). Only a sample that has both loses one, and never both.
    """
    u = rng.random()
    if has_title and has_image:
        if u < options.drop_title:
            return False, True
        if u < options.drop_title + options.drop_image:
            return True, False
    return has_title, has_image
