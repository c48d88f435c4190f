"""The training stream: global batches of (query, product) pairs whose whole position is one integer.

Example k of batch b is global draw b * B + k, or with buckets the draw that they put there, and everything random about
it follows from the seed and that number. So any number of hosts, threads or workers gives the same global batches, and
a stream resumes exactly from the number of its next batch.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from maxsearch.data.buckets.order import Buckets
from maxsearch.data.buckets.shapes import Shape
from maxsearch.data.keywords import PRODUCT_KEYWORDS, Lexicon, normalized, padded
from maxsearch.data.records import text_fields
from maxsearch.data.sources import ExampleSource, RawExample
from maxsearch.data.table_formats import BadRecord
from maxsearch.data.tokenize import TextEncoder
from maxsearch.data.transforms import (
    WHITE,
    Augment,
    ImageCache,
    augment_image,
    decode,
    drop_modality,
    drop_words,
    render,
    zoom_of,
)
from maxsearch.errors import MaxsearchError, UsageError

# B examples of this host's slice, Tq and Tt tokens, F text fields, N pictures of H x W pixels:
#   query_ids int32 [B, Tq], query_mask bool [B, Tq]
#   title_ids int32 [B, F * Tt], title_mask bool [B, F * Tt], each field in Tt places of its own, the title first
#   image uint8 [B, N, H, W, 3], image_present bool [B, N]    product int32 [B], the product's row
#   variant int32 [B], hash of the variant group, -1 for none    query int32 [B], hash of the normalised query
#   weight float32 [B], the interaction's weight as prepared
# with `words`, the number of each token's word in its row, below 0 where there is none:
#   query_word int32 [B, Tq], title_word int32 [B, F * Tt]
# with buckets Tq and Tt are those of the batch's shape
# with a lexicon, ids filled up with -1:
#   query_keywords int32 [B, 16], query_covered bool [B], whether these are all that the query asks for
#   product_keywords int32 [B, 48]
Batch = dict[str, np.ndarray]

LAST_BATCH = 2**48
UNDECODABLE = "undecodable"  # travels with a batch from the worker, and is taken off before the user sees it


@dataclass(frozen=True)
class StreamOptions:
    """How batches are made. Only how they are read and prepared ahead changes nothing in them.

    Attributes:
      batch_size: examples in a global batch.
      seed: of the random changes; not negative.
      num_workers: processes that prepare batches; 0 prepares them in this one.
      num_threads: threads that prepare batches in each process; 0 prepares each batch when it is asked for.
      prefetch: batches that each process prepares ahead.
      augment: random changes; None renders whole pictures and leaves texts alone.
      process_index: this host's number.
      process_count: number of hosts; each takes an equal slice of every batch, in order.
      cache_images: bytes of decoded pictures that each process may keep in memory.
      images: N, pictures of a product; of one that has more, some are drawn, or without `augment` the first taken.
      texts: F, text fields of a product, with the title.
      words: also tell which word each token belongs to.
    """

    batch_size: int
    seed: int = 0
    num_workers: int = 0
    num_threads: int = 2
    prefetch: int = 4
    augment: Augment | None = field(default_factory=Augment)
    process_index: int = 0
    process_count: int = 1
    cache_images: int = 0
    images: int = 1
    texts: int = 1
    words: bool = False

    def __post_init__(self) -> None:
        smallest = {"batch_size": 1, "process_count": 1, "prefetch": 1, "images": 1, "texts": 1}
        for name in (*smallest, "seed", "num_workers", "num_threads", "cache_images"):
            value, least = getattr(self, name), smallest.get(name, 0)
            if value < least:
                raise UsageError(f"{name} is {value}: choose at least {least}")
        if not 0 <= self.process_index < self.process_count:
            raise UsageError(f"process_index is {self.process_index}: choose from 0 to {self.process_count - 1}")
        if self.batch_size % self.process_count:
            raise UsageError(
                f"batch_size {self.batch_size} cannot be cut among {self.process_count} hosts: "
                f"choose a multiple of {self.process_count}"
            )


class BatchLoader:
    """Loads this host's slice of any batch; pure, thread-safe, and pickled to worker processes."""

    def __init__(
        self,
        source: ExampleSource,
        query_encoder: TextEncoder,
        title_encoder: TextEncoder,
        image_size: tuple[int, int],
        options: StreamOptions,
        lexicon: Lexicon | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        self._source, self._buckets = source, buckets
        self._query_encoder, self._title_encoder = query_encoder, title_encoder
        self._size = image_size
        self._options = options
        self._lexicon = lexicon
        self._zoom = zoom_of(options.augment) if options.augment else 1.0
        self._cache = ImageCache(options.cache_images)

    def __call__(self, batch: int) -> Batch:
        """Loads a slice; see `Batch` for the arrays."""
        options = self._options
        count = options.batch_size // options.process_count
        first = options.process_index * count
        draws = self._draws(batch)[first : first + count]
        queries: list[str] = []
        texts: list[str] = []
        examples: list[RawExample] = []
        product, variant, query_hashes = np.empty((3, count), np.int32)
        weight = np.empty(count, np.float32)
        image = np.full((count, options.images, *self._size, 3), WHITE, np.uint8)
        image_present = np.zeros((count, options.images), bool)
        undecodable = 0
        for i, (draw, example) in enumerate(zip(draws, self._source.examples(draws), strict=True)):
            # Made anew for each draw, so that its numbers depend on nothing else in the batch.
            rng = np.random.Generator(np.random.Philox(key=[options.seed, draw]))
            for place, number in enumerate(self._chosen(len(example.images), rng)):
                try:
                    image[i, place] = self._pixels((example.product, number), example.images[number], rng)
                    image_present[i, place] = True
                except BadRecord:
                    undecodable += 1
            query, fields = example.query, text_fields(example.title, example.texts, options.texts)
            if options.augment:
                has_text = any(field.strip() for field in fields)
                has_text, has_image = drop_modality(rng, options.augment, has_text, bool(image_present[i].any()))
                if has_text:
                    fields[0] = drop_words(fields[0], options.augment.title_word_drop, rng)
                else:
                    fields = [""] * options.texts
                query = drop_words(query, options.augment.query_word_drop, rng)
                if not has_image:
                    image[i], image_present[i] = WHITE, False
            product[i], weight[i] = example.product, example.weight
            variant[i] = hash31(example.variant) if example.variant else -1
            query_hashes[i] = query_hash(example.query)
            queries.append(query)
            texts += fields
            examples.append(example)
        query_ids, query_mask = self._query_encoder(queries)
        title_ids, title_mask = (x.reshape(count, -1) for x in self._title_encoder(texts))
        made: Batch = {
            "query_ids": query_ids,
            "query_mask": query_mask,
            "title_ids": title_ids,
            "title_mask": title_mask,
            "image": image,
            "image_present": image_present,
            "product": product,
            "variant": variant,
            "query": query_hashes,
            "weight": weight,
            **(self._words(queries, texts) if options.words else {}),
            **(self._keywords(examples, self._lexicon) if self._lexicon is not None else {}),
            UNDECODABLE: np.array(undecodable, np.int32),
        }
        return made if self._buckets is None else cut(made, self._buckets.shape(batch), options.texts)

    def _draws(self, batch: int) -> Sequence[int]:
        """The draws of a global batch."""
        if self._buckets is not None:
            return self._buckets.draws(batch).tolist()
        return range(batch * self._options.batch_size, (batch + 1) * self._options.batch_size)

    def _words(self, queries: list[str], texts: list[str]) -> Batch:
        T, F = self._title_encoder.max_tokens, self._options.texts
        titles = self._title_encoder.words(texts).reshape(-1, F, T)
        # A word of a later field is another word, though both count from 0.
        titles = np.where(titles < 0, -1, titles + T * np.arange(F, dtype=np.int32)[:, None])
        return {"query_word": self._query_encoder.words(queries), "title_word": titles.reshape(-1, F * T)}

    @staticmethod
    def _keywords(examples: list[RawExample], lexicon: Lexicon) -> Batch:
        # Of the whole texts: what augmentation leaves out is still asked for, and still so.
        queries, covered = zip(*(lexicon.of_query(example.query) for example in examples), strict=True)
        products = []
        for example in examples:
            if example.keywords is None:
                ids = lexicon.ids(example.title, example.query, *example.said, *example.texts)
            else:
                ids = [place for place in example.keywords if place < len(lexicon)]
            products.append(padded(ids, PRODUCT_KEYWORDS))
        return {
            "query_keywords": np.stack(queries),
            "query_covered": np.array(covered),
            "product_keywords": np.stack(products),
        }

    def _chosen(self, count: int, rng: np.random.Generator) -> list[int]:
        """The numbers of the pictures that are shown, of `count`."""
        if count <= self._options.images or self._options.augment is None:
            return list(range(min(count, self._options.images)))
        chosen: list[int] = np.sort(rng.choice(count, self._options.images, replace=False)).tolist()
        return chosen

    def _pixels(self, key: tuple[int, int], data: bytes, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
        image = self._cache.get(key)
        if image is None:
            image = decode(data, self._size, self._zoom)
            self._cache.put(key, image)
        if self._options.augment is None:
            return render(image, self._size, None)
        return augment_image(image, self._size, rng, self._options.augment)


def cut(batch: Batch, shape: Shape, fields: int) -> Batch:
    """A batch with no more token places than a shape has, which holds its texts.

    Args:
      batch: whole.
      shape: what the batch is padded to.
      fields: F.
    """
    found = dict(batch)
    for name in ("query_ids", "query_mask", "query_word"):
        if name in batch:
            found[name] = batch[name][:, : shape.query]
    for name in ("title_ids", "title_mask", "title_word"):
        if name in batch:
            by_field = batch[name].reshape(len(batch[name]), fields, -1)
            if name == "title_word":
                # Numbers stay below that of the places, as they do in a whole batch.
                shift = (by_field.shape[2] - shape.title) * np.arange(fields, dtype=np.int32)[:, None]
                by_field = np.where(by_field < 0, -1, by_field - shift)
            found[name] = by_field[:, :, : shape.title].reshape(len(by_field), -1)
    return found


class Stream:
    """An endless iterator of this host's slices of the global batches.

    Attributes:
      next_batch: number of the global batch that comes next; with the fingerprint, the whole state.
      wait_seconds: time spent waiting for batches since the stream was made.
      undecodable: pictures in the batches handed out since then that could not be decoded, and were masked.
    """

    def __init__(
        self,
        source: ExampleSource,
        loader: BatchLoader,
        options: StreamOptions,
        start: int = 0,
        buckets: Buckets | None = None,
    ) -> None:
        self._loader = loader
        self._options = options
        self._fingerprint = source.fingerprint if buckets is None else buckets.fingerprint
        self._draws_per_epoch = len(source)
        self._batches: grain.DatasetIterator[Batch] | None = None
        self.next_batch = start
        self.wait_seconds = 0.0
        self.undecodable = 0

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        if self._batches is None:
            self._batches = self._open()
        batch = {name: np.asarray(value) for name, value in next(self._batches).items()}
        self.next_batch += 1
        self.undecodable += int(batch.pop(UNDECODABLE))
        self.wait_seconds += time.perf_counter() - started
        return batch

    @property
    def epoch(self) -> float:
        """Epochs drawn so far."""
        return self.next_batch * self._options.batch_size / self._draws_per_epoch

    def state(self) -> dict[str, Any]:
        """The position, as JSON values: what `restore` takes, on any number of hosts and workers."""
        return {
            "next_batch": self.next_batch,
            "fingerprint": self._fingerprint,
            "batch_size": self._options.batch_size,
            "seed": self._options.seed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that `state` gave.

        Raises:
          MaxsearchError: the state is of other data, another batch size or seed, or is none at all.
        """
        here = self.state()
        remedy = "resume with what the run began with, or begin a new run"
        if not isinstance(state, Mapping) or not here.keys() <= state.keys():
            raise MaxsearchError(f"the saved stream position lacks one of {', '.join(here)}: {remedy}")
        if state["fingerprint"] != here["fingerprint"]:
            raise MaxsearchError(
                f"the saved stream position belongs to other data, or another drawing of them (fingerprint "
                f"{str(state['fingerprint'])[:12]}, here {here['fingerprint'][:12]}): {remedy}"
            )
        for name in ("batch_size", "seed"):
            if state[name] != here[name]:
                raise MaxsearchError(
                    f"the saved stream position has {name} {state[name]}, but here it is {here[name]}: {remedy}"
                )
        position = state["next_batch"]
        if not isinstance(position, int) or not 0 <= position < LAST_BATCH:
            raise MaxsearchError(f"the saved stream position has next_batch {position!r}, which is no batch: {remedy}")
        self.close()
        self.next_batch = position

    def close(self) -> None:
        """Ends the threads and worker processes; the next batch asked for starts them anew."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> "grain.DatasetIterator[Batch]":
        options = self._options
        threads = options.num_threads
        ahead = options.prefetch if threads else 0
        dataset = (
            grain.MapDataset.range(self.next_batch, LAST_BATCH)
            .map(self._loader)
            .to_iter_dataset(grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead))
        )
        if options.num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads absl flags in its workers, which only an absl app parses
            # With threads, a worker's own buffer is the one that holds `prefetch` batches.
            buffer = 1 if threads else options.prefetch
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=options.num_workers, per_worker_buffer_size=buffer)
            )
        return iter(dataset)


def make_stream(
    source: ExampleSource,
    query_encoder: TextEncoder,
    title_encoder: TextEncoder,
    image_size: tuple[int, int],
    options: StreamOptions,
    start: int = 0,
    lexicon: Lexicon | None = None,
    buckets: Buckets | None = None,
) -> Stream:
    """Makes the stream of this host.

    Args:
      source: where examples come from.
      query_encoder: for queries, with Tq tokens.
      title_encoder: for titles, with Tt tokens.
      image_size: (H, W).
      options: how batches are made.
      start: number of the first global batch.
      lexicon: the keywords that batches tell of: all, or the first ones, of the source's. None leaves them out.
      buckets: which draws make up each batch, and how long its texts are; None takes them in order, at full length.

    Returns:
      A stream of `Batch`. With `num_workers`, the calling script needs an `if __name__ == "__main__"` guard.

    Raises:
      UsageError: the image size or the start makes no sense.
    """
    if min(image_size) < 1:
        raise UsageError(f"the image size {image_size} is empty: choose a height and a width of at least 1")
    if not 0 <= start < LAST_BATCH:
        raise UsageError(f"the stream cannot start at batch {start}: choose 0 or more")
    loader = BatchLoader(source, query_encoder, title_encoder, image_size, options, lexicon, buckets)
    return Stream(source, loader, options, start, buckets)


def query_hash(query: str) -> int:
    """31-bit hash of a query, equal for queries that differ in case, width or spaces only."""
    return hash31(normalized(query))


@lru_cache(maxsize=2**17)
def hash31(text: str) -> int:
    """31-bit BLAKE2b hash: the same in every process and on every host."""
    return (
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).digest(), "little") & 0x7FFFFFFF
    )
