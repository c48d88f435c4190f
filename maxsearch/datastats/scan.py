"""One pass over a prepared dataset that keeps a few numbers per product, picture and distinct query.

P products, I pictures, Q distinct queries, C sampled products.
"""

import heapq
import io
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64, UInt64
from PIL import Image

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.images import FORMATS
from maxsearch.data.keys import NONE, bytes_key, text_key
from maxsearch.data.records import Product
from maxsearch.datastats.tally import Tally
from maxsearch.progress import Progress

T = TypeVar("T")

BLOCK = 512
QUERIES_KEPT = 8
UNREADABLE = "unreadable"

CountTokens = Callable[[Sequence[str]], list[int]]  # the number of tokens of each text


@dataclass(frozen=True)
class Pictures:
    """Every picture, in the order of the products.

    Attributes:
      key: of its bytes.
      owner: position of its product.
      width: in pixels; 0 when the header cannot be read.
      height: in pixels.
      size: in bytes.
      format: index in `formats`.
      formats: names of formats.
    """

    key: UInt64[np.ndarray, " I"]
    owner: Int64[np.ndarray, " I"]
    width: Int32[np.ndarray, " I"]
    height: Int32[np.ndarray, " I"]
    size: Int64[np.ndarray, " I"]
    format: Int8[np.ndarray, " I"]
    formats: tuple[str, ...] = (*FORMATS, UNREADABLE)


@dataclass(frozen=True)
class Scan:
    """What one pass keeps.

    Attributes:
      id: key of each product's identifier.
      title: key of its title, NONE without one.
      variant: key of its variant group, NONE without one.
      title_words: length of its title in words.
      title_tokens: the same in tokens; None when none are counted.
      text_words: length of its further texts together, in words.
      pictures: the pictures.
      clicks: weight of its interactions.
      queries: the distinct queries (case, width and spaces do not count), with lengths and weights.
      queries_of: {position of a sampled product: its (weight, query), the weightiest first}.
    """

    id: UInt64[np.ndarray, " P"]
    title: UInt64[np.ndarray, " P"]
    variant: UInt64[np.ndarray, " P"]
    title_words: Int32[np.ndarray, " P"]
    title_tokens: Int32[np.ndarray, " P"] | None
    text_words: Int32[np.ndarray, " P"]
    pictures: Pictures
    clicks: Float64[np.ndarray, " P"]
    queries: Tally
    queries_of: dict[int, list[tuple[float, str]]]


def scan(
    data: PreparedDataset,
    count_tokens: CountTokens | None = None,
    *,
    sampled: Collection[int] = (),
    progress: Progress | None = None,
) -> Scan:
    """Reads every record once.

    Args:
      data: the dataset.
      count_tokens: counts tokens of titles and queries; None for not at all.
      sampled: positions of products whose queries are wanted.
      progress: where to report.

    Raises:
      MaxsearchError: a shard is damaged.
    """
    products = len(data.products)
    identity, title, variant = np.zeros((3, products), np.uint64)
    title_words, title_tokens, text_words = np.zeros((3, products), np.int32)
    pictures = _PictureColumns()
    start = 0
    for block in _blocks(_tracked(data.products, f"Reading products of {data.path}", progress)):
        here = slice(start, start + len(block))
        identity[here] = [bytes_key(product.product_id.encode("utf-8", "replace")) for product in block]
        title[here] = [text_key(product.title) for product in block]
        variant[here] = [_variant_key(product) for product in block]
        title_words[here] = [len(product.title.split()) for product in block]
        text_words[here] = [sum(len(text.split()) for text in product.texts) for product in block]
        if count_tokens is not None:
            title_tokens[here] = count_tokens([product.title for product in block])
        for position, product in enumerate(block, start):
            for picture in product.images:
                pictures.add(position, picture)
        start += len(block)
    clicks, queries, queries_of = _interactions(data, count_tokens, sampled, progress)
    return Scan(
        id=identity,
        title=title,
        variant=variant,
        title_words=title_words,
        title_tokens=None if count_tokens is None else title_tokens,
        text_words=text_words,
        pictures=pictures.finished(),
        clicks=clicks,
        queries=queries,
        queries_of=queries_of,
    )


def _interactions(
    data: PreparedDataset, count_tokens: CountTokens | None, sampled: Collection[int], progress: Progress | None
) -> tuple[Float64[np.ndarray, " P"], Tally, dict[int, list[tuple[float, str]]]]:
    clicks = np.zeros(len(data.products))
    queries = Tally()
    best: dict[int, list[tuple[float, int, str]]] = {position: [] for position in sampled}
    start = 0
    for block in _blocks(_tracked(data.interactions, f"Reading interactions of {data.path}", progress)):
        texts = [one.query for one in block]
        weights = [float(one.weight) for one in block]
        np.add.at(clicks, [one.product for one in block], weights)
        queries.add(
            [text_key(text) for text in texts],
            list(range(start, start + len(block))),
            weights,
            [len(text.split()) for text in texts],
            None if count_tokens is None else count_tokens(texts),
        )
        for number, one in enumerate(block, start):
            kept = best.get(one.product)
            if kept is not None:
                # Of equal weights the earlier stays.
                entry = (float(one.weight), -number, one.query)
                (heapq.heappush if len(kept) < QUERIES_KEPT else heapq.heappushpop)(kept, entry)
        start += len(block)
    queries.finish()
    ordered = {
        position: [(weight, query) for weight, _, query in sorted(kept, reverse=True)]
        for position, kept in best.items()
    }
    return clicks, queries, ordered


class _PictureColumns:
    """Pictures while they are read; how many there will be is not known before."""

    def __init__(self) -> None:
        self._key, self._owner, self._size = array("Q"), array("q"), array("q")
        self._width, self._height, self._format = array("i"), array("i"), array("b")

    def add(self, position: int, data: bytes) -> None:
        kind, width, height = _header(data)
        self._key.append(bytes_key(data))
        self._owner.append(position)
        self._size.append(len(data))
        self._width.append(width)
        self._height.append(height)
        self._format.append((*FORMATS, UNREADABLE).index(kind))

    def finished(self) -> Pictures:
        return Pictures(
            key=np.array(self._key, np.uint64),
            owner=np.array(self._owner, np.int64),
            width=np.array(self._width, np.int32),
            height=np.array(self._height, np.int32),
            size=np.array(self._size, np.int64),
            format=np.array(self._format, np.int8),
        )


def _header(data: bytes) -> tuple[str, int, int]:
    """Format, width and height, without decoding."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.format or UNREADABLE, image.width, image.height
    except Exception:  # Pillow's parsers meet damaged bytes with errors of many kinds
        return UNREADABLE, 0, 0


def _variant_key(product: Product) -> int:
    return bytes_key(product.variant.encode("utf-8", "replace")) if product.variant else NONE


def _tracked(items: Iterable[T], description: str, progress: Progress | None) -> Iterable[T]:
    return items if progress is None else progress.track(items, description)


def _blocks(items: Iterable[T]) -> Iterator[list[T]]:
    stream = iter(items)
    while block := list(islice(stream, BLOCK)):
        yield block
