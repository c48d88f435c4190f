"""The training stream."""

import math
from dataclasses import dataclass, field

from maxsearch.config.checks import require
from maxsearch.config.mixture import parse_mixture
from maxsearch.errors import UsageError


@dataclass(frozen=True)
class Augment:
    """Random changes of a training example.

    Attributes:
      flip: mirror half of the pictures.
      scale: smallest and largest area of the random box, as a fraction of the canvas.
      ratio: smallest and largest stretch of the box's aspect ratio, relative to the target's.
      brightness: largest relative change of brightness. Off by default, as contrast is: shoppers ask for colours.
      contrast: largest relative change of contrast.
      drop_title: probability that a sample loses its title.
      drop_image: probability that a sample loses its picture. A sample never loses both, nor the only one it has.
      title_word_drop: probability that each word of a title is left out; at least one stays.
      query_word_drop: the same for queries.
    """

    flip: bool = True
    scale: tuple[float, float] = (0.7, 1.0)
    ratio: tuple[float, float] = (0.85, 1.18)
    brightness: float = 0.0
    contrast: float = 0.0
    drop_title: float = 0.0
    drop_image: float = 0.0
    title_word_drop: float = 0.0
    query_word_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "drop_title", "drop_image", "title_word_drop", "query_word_drop"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"data.augment.{name} is {value}: choose a number from 0 to 1")
        if self.drop_title + self.drop_image > 1.0:
            total = self.drop_title + self.drop_image
            raise UsageError(f"data.augment.drop_title + data.augment.drop_image is {total}: keep the sum at most 1")
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise UsageError(f"data.augment.scale is {self.scale}: choose two rising numbers above 0 and at most 1")
        low, high = self.ratio
        if not 0.0 < low <= high or not math.isfinite(high):
            raise UsageError(f"data.augment.ratio is {self.ratio}: choose two rising numbers above 0")


@dataclass(frozen=True)
class DataConfig:
    """The training stream.

    `batch_size` counts examples over all hosts. `tokenizer` is a folder with a fast tokenizer, or empty for the one
    that the data were prepared with, or else to train one on the catalogue.
    Examples are drawn in proportion to weight ** `weight_power` (0: every interaction alike).
    `fraction` is the share of the products whose interactions are learned from, for ablations.
    `negatives` is a folder that `maxsearch mine` wrote, or empty: then the share `negatives_share` of the examples is
    drawn so that their products are mined negatives of another example's query.
    `mixture` says how often each of several datasets is drawn from: NAME=WEIGHT, or NAME=WEIGHT@STEP,WEIGHT@STEP for a
    weight that goes in straight lines; empty draws every interaction alike.
    `max_padding` is the share of token places that may stay empty: batches of texts of like length are then cut to the
    fewest lengths that stay below it, at most `buckets` (0: 16), each compiled once. `buckets` alone takes so many
    lengths; 0 and 0 leave every batch as long as the model reads.
    `text_key` and `image_key` name the features of a `tfds:` source. `prefetch` is the number of batches that each
    process prepares ahead; 0 finds it by a probe. `cache_images_mb` bounds a cache of decoded images. Examples with bad
    records are masked, and end training when they are more than `max_bad_fraction`. `image_edge` is the edge that the
    images were prepared with; 0 takes it from the dataset.
    """

    batch_size: int = 256
    tokenizer: str = ""
    weight_power: float = 0.5
    fraction: float = 1.0
    negatives: str = ""
    negatives_share: float = 0.25
    mixture: tuple[str, ...] = ()
    buckets: int = 0
    max_padding: float = 0.0
    augment: Augment = field(default_factory=Augment)
    workers: int = 0
    threads: int = 1
    prefetch: int = 4
    cache_images_mb: int = 0
    max_bad_fraction: float = 0.01
    image_edge: int = 0
    text_key: str = "caption"
    image_key: str = "image"

    def __post_init__(self) -> None:
        require(
            self.batch_size >= 2,
            f"data.batch_size must be at least 2 (losses contrast examples), not {self.batch_size}",
        )
        require(0 < self.fraction <= 1, f"data.fraction must lie above 0 and at most at 1, not {self.fraction}")
        require(
            0 < self.negatives_share < 1,
            f"data.negatives_share must lie above 0 and below 1, not {self.negatives_share}",
        )
        parse_mixture(self.mixture)
        require(self.buckets >= 0, f"data.buckets must not be negative, not {self.buckets}")
        require(0 <= self.max_padding < 1, f"data.max_padding must be at least 0 and below 1, not {self.max_padding}")
        require(self.workers >= 0, f"data.workers must not be negative, not {self.workers}")
        require(self.threads >= 1, f"data.threads must be at least 1, not {self.threads}")
        require(self.prefetch >= 0, f"data.prefetch must not be negative, not {self.prefetch}")
        require(
            0 <= self.max_bad_fraction <= 1, f"data.max_bad_fraction must lie from 0 to 1, not {self.max_bad_fraction}"
        )
