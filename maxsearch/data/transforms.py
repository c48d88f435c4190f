"""Pictures to fixed arrays, and the random changes of training examples.

A picture is seen on a canvas of the target's aspect ratio: as large as fits, centred, white around it. `eval_image`
shows the whole canvas, `train_image` a random box of it. So both show the product in the same surroundings.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the box that is shown has pixels to spare, which costs little
more than unpacking its bits; box, size and mirror image are then one pass over what is left.
"""

import math
import threading
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from maxsearch.config import Augment
from maxsearch.data.images import MAX_PIXELS, decode_image

WHITE = 255
REDUCTIONS = (8, 4, 2)  # what the decoder halves without loss of speed; others it knows are slower than no reduction
VIEW_NUMBERS = 7  # random numbers that a view is made of

ImageArray = UInt8[np.ndarray, "H W 3"]
Pixels = UInt8[np.ndarray, "h w 3"]

cv2.setNumThreads(1)  # the stream has processes and threads of its own


class View(NamedTuple):
    """What is shown of a picture, and how; by default all of it, as it is.

    Attributes:
      width, height: of the box, as fractions of the canvas.
      left, top: where it lies, from 0 to 1 between the first and the last place where it may.
      mirror: whether left and right are exchanged.
      brightness, contrast: factors.
    """

    width: float = 1.0
    height: float = 1.0
    left: float = 0.5
    top: float = 0.5
    mirror: bool = False
    brightness: float = 1.0
    contrast: float = 1.0


WHOLE = View()


class ImageCache:
    """Decoded pictures in memory, up to a number of bytes.

    Nothing is evicted: examples are drawn in random order, so a full cache serves its share of them at no further cost.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._images: dict[Hashable, Pixels] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> int:
        return self._max_bytes  # a worker process fills its own

    def __setstate__(self, max_bytes: int) -> None:
        self.__init__(max_bytes)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._images)

    def get(self, key: Hashable) -> Pixels | None:
        """The picture kept under `key`, or None."""
        return self._images.get(key)

    def put(self, key: Hashable, image: Pixels) -> None:
        """Keeps a picture if there is room."""
        with self._lock:
            if key not in self._images and self._bytes + image.nbytes <= self._max_bytes:
                self._bytes += image.nbytes
                self._images[key] = image


def random_view(numbers: Sequence[float], options: Augment) -> View:
    """A view made of `VIEW_NUMBERS` random numbers from 0 to 1."""
    area, stretch, left, top, mirror, brightness, contrast = numbers
    low, high = options.scale
    fraction = low + (high - low) * area
    low, high = math.log(options.ratio[0]), math.log(options.ratio[1])
    side = math.exp((low + (high - low) * stretch) / 2)
    return View(
        width=min(1.0, math.sqrt(fraction) * side),
        height=min(1.0, math.sqrt(fraction) / side),
        left=left,
        top=top,
        mirror=options.flip and mirror < 0.5,
        brightness=1 + options.brightness * (2 * brightness - 1),
        contrast=1 + options.contrast * (2 * contrast - 1),
    )


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an upright colour JPEG of a size that is allowed; None for any other picture, and for none."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # the second where a damaged header names colours that it has no name for
        return None
    plain = colours == "YCbCr" and height * width <= MAX_PIXELS and b"Exif\0\0" not in data
    return (height, width) if plain else None


def reduction_of(data: bytes, size: tuple[int, int], view: View) -> int:
    """The reduction that leaves a pixel of the picture, or more, for each one that the view is rendered with.

    Returns:
      1, 2, 4 or 8; 0 for what is no plain JPEG and cannot be reduced.
    """
    shape = plain_size(data)
    if shape is None:
        return 0
    width, height = _canvas(shape, size)
    spare = min(view.width * width / size[1], view.height * height / size[0])
    return next((reduction for reduction in REDUCTIONS if spare >= reduction), 1)


def decode(data: bytes, reduction: int = 0) -> Pixels:
    """Decodes a picture as upright RGB, transparency over white.

    Args:
      data: JPEG, PNG or WebP.
      reduction: what `reduction_of` said of it; sides are divided by it and rounded up.

    Raises:
      BadRecord: as `decode_image`.
    """
    if reduction:
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            pixels: Pixels = simplejpeg.decode_jpeg(
                data, min_height=-(-height // reduction), min_width=-(-width // reduction)
            )
            return pixels
        except ValueError:  # damaged: the slower way below tries again, and names the reason
            pass
    return decode_image(data)


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
    return render(decode(data, reduction_of(data, size, WHOLE)), size)


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
    view = random_view(rng.random(VIEW_NUMBERS).tolist(), options)
    return render(decode(data, reduction_of(data, size, view)), size, view)


def render(image: Pixels, size: tuple[int, int], view: View = WHOLE, out: ImageArray | None = None) -> ImageArray:
    """Renders a view of a decoded picture: bilinear, or the mean of the pixels where it shrinks to half or less.

    Args:
      image: RGB.
      size: (H, W).
      view: what is shown; where its box reaches over the edges there is white. Edges are rounded to whole pixels.
      out: uint8 [H, W, 3], filled and returned; by default a new array.

    Returns:
      uint8 [H, W, 3].
    """
    H, W = size
    out = np.empty((H, W, 3), np.uint8) if out is None else out
    width, height = _canvas(image.shape[:2], size)
    columns = _span(view.left, view.width * width, image.shape[1], width, W)
    rows = _span(view.top, view.height * height, image.shape[0], height, H)
    first, last = columns.target if not view.mirror else (W - columns.target[1], W - columns.target[0])
    if (rows.target, first, last) == ((0, H), 0, W):
        place = out
    else:
        out[...] = WHITE
        place = out[rows.target[0] : rows.target[1], first:last]
    shown = image[rows.source[0] : rows.source[1], columns.source[0] : columns.source[1]]
    if shown.shape == place.shape:
        pixels = shown
    else:
        spare = min(shown.shape[0] / place.shape[0], shown.shape[1] / place.shape[1])
        kind = cv2.INTER_AREA if spare >= 2 else cv2.INTER_LINEAR
        target = None if view.mirror else place
        pixels = cv2.resize(shown, (place.shape[1], place.shape[0]), dst=target, interpolation=kind)
    if view.mirror:
        cv2.flip(pixels, 1, dst=place)
    elif pixels is shown:
        place[...] = pixels
    if view.brightness != 1 or view.contrast != 1:
        _relight(out, view)
    return out


def _relight(pixels: ImageArray, view: View) -> None:
    """Changes brightness, and then contrast around the mean."""
    mean = float(pixels.mean()) * view.brightness
    levels = (np.arange(256) * view.brightness - mean) * view.contrast + mean
    cv2.LUT(pixels, np.clip(levels + 0.5, 0, 255).astype(np.uint8), dst=pixels)


def _canvas(shape: Sequence[int], size: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the smallest box of the target's aspect ratio that holds a picture, in its pixels."""
    scale = max(shape[1] / size[1], shape[0] / size[0])
    return size[1] * scale, size[0] * scale


class _Span(NamedTuple):
    source: tuple[int, int]
    target: tuple[int, int]


def _span(place: float, length: float, extent: int, canvas: float, pixels: int) -> _Span:
    """The part of a picture's axis that a box shows, and the target pixels it covers; at least one of each.

    Args:
      place: where the box lies, see `View`: inside the picture, or around it when that is smaller.
      length: of the box.
      extent: of the picture, which lies in the middle of the canvas.
      canvas: its length.
      pixels: of the target.
    """
    if length <= extent:
        start = (extent - length) * place
    else:
        margin = (canvas - extent) / 2
        first = max(-margin, extent - length)
        room = min(0.0, margin + extent - length) - first
        # A box as large as the canvas lies in one place, whatever rounding leaves of the room.
        start = first + room * place if room > 1e-9 * length else first
    low, high = max(start, 0.0), min(start + length, float(extent))
    first_target = min(max(round((low - start) / length * pixels), 0), pixels - 1)
    last_target = min(max(round((high - start) / length * pixels), first_target + 1), pixels)
    first_source = min(round(low), extent - 1)
    return _Span((first_source, max(round(high), first_source + 1)), (first_target, last_target))


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


def drop_modality(chance: float, options: Augment, has_title: bool, has_image: bool) -> tuple[bool, bool]:
    """Decides which of title and picture a sample keeps, by a random number from 0 to 1.

    Returns:
      (keeps title, keeps image). Only a sample that has both loses one, and never both.
    """
    if has_title and has_image:
        if chance < options.drop_title:
            return False, True
        if chance < options.drop_title + options.drop_image:
            return True, False
    return has_title, has_image
