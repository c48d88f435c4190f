"""Text-to-image and image-to-text retrieval over captioned pictures, as COCO and Flickr30k are evaluated.

Text to image: each caption ranks all pictures, and its own is the one relevant. Image to text: each picture ranks all
captions, and any of its own counts. R@K is the share of queries with a relevant item in the first K ranks, rsum the sum
of the six in per cent, and the median rank that of the best relevant item (Karpathy and Fei-Fei, CVPR 2015; rsum from
Faghri et al., VSE++, BMVC 2018). With folds, pictures are cut in their order into parts, each part ranks its own, and
figures are over all parts: COCO's "5-fold 1K" is 5 folds of the 5,000 test pictures.

Captions of one picture are no independent queries, so intervals resample pictures, each with its captions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64

from maxsearch.data.records import Product
from maxsearch.data.tables.files import Columns
from maxsearch.data.tables.parts import TableSource
from maxsearch.data.tables.read import read_fields
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.evaluation.bootstrap import RESAMPLES, Interval
from maxsearch.evaluation.clusters import cluster_means, cluster_sums, percentile_interval
from maxsearch.evaluation.embedded import ProductEncoder
from maxsearch.evaluation.product_vectors import Source, product_vectors, require_finite
from maxsearch.evaluation.ranks import best_ranks
from maxsearch.progress import Progress

SCHEMA_VERSION = 1
TEXT_TO_IMAGE, IMAGE_TO_TEXT = DIRECTIONS = ("text to image", "image to text")
CUTS = (1, 5, 10)
MEDIAN, RSUM = "median rank", "rsum"
FIELDS = ("image_id", "caption")
CAPTIONS = "captions file"
MEDIAN_RESAMPLES = 1000


@dataclass(frozen=True)
class CaptionOptions:
    """How captions and pictures are ranked.

    Attributes:
      text_encoder: "query" or "title", the tower that reads the captions.
      image: "v" for the vectors of the pictures alone, "p" for the fused ones.
      captions_per_image: how many of a picture's captions are used, the first ones; 0 for all.
      folds: parts that the pictures are cut into.
      seed: of the bootstrap.
    """

    text_encoder: str = "query"
    image: str = "v"
    captions_per_image: int = 5
    folds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.captions_per_image < 0:
            raise UsageError(f"--captions-per-image {self.captions_per_image} is no number: give 0 for all, or more")
        if self.folds < 1:
            raise UsageError(f"--folds {self.folds} leaves no picture: give 1 or more")


@dataclass(frozen=True)
class CaptionFigures:
    """The figures.

    Attributes:
      directions: per direction, the interval of "r@1", "r@5", "r@10" (shares) and "median rank".
      rsum: the sum of the six recalls, in per cent.
      counts: pictures and captions used, and left out.
      settings: what else the figures depend on.
    """

    directions: dict[str, dict[str, Interval]]
    rsum: Interval
    counts: dict[str, Any]
    settings: dict[str, Any]


def read_captions(path: TableSource, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yields (image_id, caption) of a table that has these columns, or the ones that `columns` names.

    Raises:
      UsageError: no such file, or a column is missing.
      MaxsearchError: a row is malformed, or names no picture.
    """
    for place, (image_id, caption) in read_fields(path, FIELDS, columns, what=CAPTIONS):
        if not image_id:
            raise MaxsearchError(f"{place} names no picture: fill in its image_id")
        yield image_id, " ".join(caption.split())


def evaluate_captions(
    source: Source,
    captions: Iterable[tuple[str, str]],
    encoder: ProductEncoder,
    options: CaptionOptions,
    progress: Progress | None = None,
) -> CaptionFigures:
    """Embeds pictures and captions, and ranks each by the other.

    Args:
      source: the pictures, as products; those without a picture are left out.
      captions: (product identifier, text); empty texts, and those of other products, are left out and counted.
      encoder: the model.
      options: how.
      progress: where to report.

    Raises:
      UsageError: there are fewer captioned pictures than folds.
      MaxsearchError: a file cannot be read, or no caption belongs to a picture.
    """
    said, left_out = _grouped(captions, options.captions_per_image)
    if not said:
        raise MaxsearchError("there is no caption with text: give a captions file with image_id and caption")
    found = product_vectors(source, encoder, [options.image], progress=progress)
    pictures = np.flatnonzero(found.pictured)
    texts = [text for row in pictures for text in said.get(found.ids[row], ())]
    if not texts:
        raise MaxsearchError(
            f"no caption is of a picture of {source.products}: the captions are of {_some(said)}, the pictures are "
            f"{_some(found.ids[row] for row in pictures)}; check the files and --map image_id=COLUMN product_id=COLUMN"
        )
    image_of = np.array([n for n, row in enumerate(pictures) for _ in said.get(found.ids[row], ())], np.int64)
    if options.folds > len(pictures):
        raise UsageError(f"--folds {options.folds} is more than the {len(pictures)} pictures: give fewer")
    vectors = {
        TEXT_TO_IMAGE: embed_texts(encoder, texts, options.text_encoder),
        IMAGE_TO_TEXT: found.vectors[options.image][pictures],
    }
    ranks = fold_ranks(vectors[TEXT_TO_IMAGE], vectors[IMAGE_TO_TEXT], image_of, options.folds, progress)
    directions, rsum = figures(ranks, image_of, seed=options.seed)
    bare = {found.ids[row] for row in np.flatnonzero(~found.pictured)}
    beside = said.keys() - {found.ids[row] for row in pictures}
    return CaptionFigures(
        directions=directions,
        rsum=rsum,
        counts={
            "images": len(pictures),
            "images_without_captions": len(pictures) - len(np.unique(image_of)),
            "captions": len(texts),
            "captions_empty": left_out["empty"],
            "captions_beyond_the_first": left_out["beyond"],
            "captions_of_other_images": sum(len(said[image]) for image in beside - bare),
            "captions_of_products_without_image": sum(len(said[image]) for image in beside & bare),
            "products_without_image": len(found.ids) - len(pictures),
            "products_rejected": found.rejected,
        },
        settings={
            "model_fingerprint": encoder.fingerprint,
            "text_encoder": options.text_encoder,
            "image_vectors": options.image,
            "captions_per_image": options.captions_per_image,
            "folds": options.folds,
            "interval": {"method": "percentile bootstrap over images", "level": 0.95, "resamples": RESAMPLES},
            "seed": options.seed,
        },
    )


def embed_texts(encoder: ProductEncoder, texts: Sequence[str], tower: str) -> Float32[np.ndarray, "n D"]:
    """Vectors of captions by the query tower, or by the title tower as titles of products without a picture.

    Raises:
      MaxsearchError: a vector is not finite.
    """
    if tower == "query":
        vectors = encoder.encode_queries(texts)
    else:
        titles = (Product(str(number), text) for number, text in enumerate(texts))
        vectors = np.concatenate([np.asarray(batch.t, np.float32) for batch in encoder.encode_products(titles)])
    require_finite(vectors, f"vectors of the captions by the {tower} tower")
    return vectors


def fold_ranks(
    texts: Float32[np.ndarray, "C D"],
    images: Float32[np.ndarray, "I D"],
    image_of: Int64[np.ndarray, " C"],
    folds: int = 1,
    progress: Progress | None = None,
) -> dict[str, Int64[np.ndarray, "..."]]:
    """The rank, from 1, of the best relevant item: of each caption, and of each picture that has a caption.

    Args:
      texts, images: vectors of captions and pictures.
      image_of: the picture of each caption, ascending.
      folds: parts of the pictures, in their order, that are ranked on their own.
      progress: where to report.
    """
    parts: dict[str, list[np.ndarray]] = {direction: [] for direction in DIRECTIONS}

    def track(blocks: Iterable[int]) -> Iterable[int]:
        return blocks if progress is None else progress.track(blocks, "ranking")

    for fold in np.array_split(np.arange(len(images)), folds):
        captions = np.arange(*np.searchsorted(image_of, [fold[0], fold[-1] + 1]))
        owners, own = np.unique(image_of[captions], return_inverse=True)
        to_image = np.stack([np.arange(len(captions)), image_of[captions] - fold[0]], axis=1)
        to_text = np.stack([own, np.arange(len(captions))], axis=1)
        if len(captions):
            parts[TEXT_TO_IMAGE].append(best_ranks(texts[captions], images[fold], to_image, track=track))
            parts[IMAGE_TO_TEXT].append(best_ranks(images[owners], texts[captions], to_text, track=track))
    return {direction: np.concatenate(found) for direction, found in parts.items()}


def figures(
    ranks: dict[str, Int64[np.ndarray, "..."]], image_of: Int64[np.ndarray, " C"], *, seed: int = 0
) -> tuple[dict[str, dict[str, Interval]], Interval]:
    """Recalls and median rank of each direction, and rsum, with intervals over pictures; see `fold_ranks`."""
    owner = np.unique(image_of, return_inverse=True)[1]
    images = int(owner.max()) + 1
    owners = {TEXT_TO_IMAGE: owner, IMAGE_TO_TEXT: np.arange(images)}
    hits = [(ranks[direction] <= cut, direction) for direction in DIRECTIONS for cut in CUTS]
    parts = np.stack([cluster_sums(found.astype(np.float64), owners[direction]) for found, direction in hits], axis=1)
    draws = cluster_means(parts[..., 0], parts[..., 1], seed=seed)
    values = [float(found.mean()) for found, _ in hits]
    recalls = iter(percentile_interval(value, column) for value, column in zip(values, draws.T, strict=True))
    directions = {direction: {f"r@{cut}": next(recalls) for cut in CUTS} for direction in DIRECTIONS}
    for direction, metrics in directions.items():
        metrics[MEDIAN] = median_interval(ranks[direction], owners[direction], images, seed=seed)
    return directions, percentile_interval(100 * sum(values), 100 * draws.sum(axis=1))


def median_interval(
    ranks: Int64[np.ndarray, " n"], owner: Int[np.ndarray, " n"], owners: int, *, seed: int = 0
) -> Interval:
    """The median with its 95 % percentile bootstrap interval over owners, each drawn with all its ranks."""
    order = np.argsort(ranks, kind="stable")
    ordered, owner = ranks[order], owner[order]
    rng = np.random.default_rng(seed)
    medians = np.empty(MEDIAN_RESAMPLES)
    for number in range(MEDIAN_RESAMPLES):
        drawn = np.bincount(rng.integers(0, owners, owners), minlength=owners)
        medians[number] = _median(ordered, np.cumsum(drawn[owner]))
    return percentile_interval(float(np.median(ranks)), medians)


def _median(ordered: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]) -> float:
    """The median of ascending values, of which the first n came `counts[n - 1]` times together."""
    middle = [(counts[-1] - 1) // 2, counts[-1] // 2]
    values: Float64[np.ndarray, " 2"] = ordered[np.searchsorted(counts, middle, side="right")].astype(np.float64)
    return float(values.mean())


def _grouped(captions: Iterable[tuple[str, str]], most: int) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The texts of each picture, in order, and how many were left out."""
    said: dict[str, list[str]] = {}
    left_out = {"empty": 0, "beyond": 0}
    for image, text in captions:
        own = said.setdefault(image, [])
        if not text:
            left_out["empty"] += 1
        elif most and len(own) == most:
            left_out["beyond"] += 1
        else:
            own.append(text)
    return {image: texts for image, texts in said.items() if texts}, left_out


def _some(identifiers: Iterable[str]) -> str:
    first = [identifier for identifier, _ in zip(identifiers, range(4), strict=False)]
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "") or "none"
