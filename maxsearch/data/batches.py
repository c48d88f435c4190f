"""What a batch holds, and how it is made: a pure function of its number."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, UInt8

from maxsearch.data.buckets.order import Buckets
from maxsearch.data.buckets.shapes import Shape
from maxsearch.data.faults import UNDECODABLE, UNREADABLE, Faults
from maxsearch.data.keywords import PRODUCT_KEYWORDS, Lexicon, normalized, padded
from maxsearch.data.records import text_fields
from maxsearch.data.shared import Places
from maxsearch.data.sources import NO_PRODUCT, ExampleSource, RawExample
from maxsearch.data.tables.formats import BadRecord
from maxsearch.data.tokenize import TextEncoder
from maxsearch.data.tokens.encoder import TableEncoder, numbers_shown
from maxsearch.data.tokens.table import TokenTable
from maxsearch.data.transforms import (
    VIEW_NUMBERS,
    WHITE,
    WHOLE,
    Augment,
    ImageArray,
    ImageCache,
    decode,
    drop_modality,
    drop_words,
    random_view,
    reduction_of,
    render,
)
from maxsearch.errors import UsageError

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
# An example whose record cannot be read, or of which nothing but a bad picture was there, is masked: its product,
# variant and query are -1, its weight is 0, and its texts and pictures are empty. Losses leave it out.
Batch = dict[str, np.ndarray]
Texts = tuple[list[str], np.ndarray | None]  # and their numbers in a table of token ids

IMAGE_TICKET = "image_ticket"  # stands for the pictures of a batch on their way from a worker; see shared.py
VIEWS = 2**64 - 1  # keeps the random numbers of views apart from those of words and of which pictures are shown


@dataclass(frozen=True)
class StreamOptions:
    """How batches are made. Only how they are read and prepared ahead changes nothing in them.

    Attributes:
      batch_size: examples in a global batch.
      seed: of the random changes; not negative.
      num_workers: processes that prepare batches; 0 prepares them in this one.
      num_threads: threads that prepare batches in each process; 0 prepares each batch when it is asked for. A worker
        process with one writes pictures where this process reads them; with more, they are copied there.
      prefetch: batches that each process prepares ahead; 0 finds a number by a probe.
      augment: random changes; None renders whole pictures and leaves texts alone.
      process_index: this host's number.
      process_count: number of hosts; each takes an equal slice of every batch, in order.
      cache_images: bytes of decoded pictures that each process may keep in memory.
      images: N, pictures of a product; of one that has more, some are drawn, or without `augment` the first taken.
      texts: F, text fields of a product, with the title.
      words: also tell which word each token belongs to.
      max_bad_fraction: the largest share of examples with bad records; see `Faults.check`.
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
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        smallest = {"batch_size": 1, "process_count": 1, "images": 1, "texts": 1}
        for name in (*smallest, "seed", "num_workers", "num_threads", "prefetch", "cache_images"):
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
        tokens: TokenTable | None = None,
    ) -> None:
        self._source, self._buckets, self._tokens = source, buckets, tokens
        self._query_encoder, self._title_encoder = (TableEncoder(x, tokens) for x in (query_encoder, title_encoder))
        self._size = image_size
        self._options = options
        self._lexicon = lexicon
        self._shared = 0
        self._places: Places | None = None
        self._cache = ImageCache(options.cache_images)
        # Whole blocks of the four numbers that the generator makes at a time.
        self._blocks = -(-(VIEW_NUMBERS * options.images + 1) // 4)
        augment = options.augment
        self._words_drop = bool(augment and (augment.title_word_drop or augment.query_word_drop))

    def __call__(self, batch: int) -> Batch:
        """Loads a slice; see `Batch` for the arrays, to which those of `Faults` are added."""
        options = self._options
        count = options.batch_size // options.process_count
        first = options.process_index * count
        draws = self._draws(batch)[first : first + count]
        image, sent = self._new_images()
        image_present = np.zeros((count, options.images), bool)
        numbers = self._numbers(draws)
        queries: list[str] = []
        texts: list[str] = []
        examples: list[RawExample] = []
        faults = Faults()
        for i, (draw, example) in enumerate(zip(draws, self._source.examples(draws), strict=True)):
            rng = None
            if self._words_drop or len(example.images) > options.images:
                # Made anew for each draw, so that its numbers depend on nothing else in the batch.
                rng = np.random.Generator(np.random.Philox(key=[options.seed, draw]))
            example, shown = self._shown(example, rng, numbers[i], image[i], faults)
            query, fields = example.query, text_fields(example.title, example.texts, options.texts)
            if options.augment:
                has_text = any(field.strip() for field in fields)
                has_text, has_image = drop_modality(numbers[i, -1], options.augment, has_text, any(shown))
                if not has_text:
                    fields = [""] * options.texts
                elif rng is not None:
                    fields[0] = drop_words(fields[0], options.augment.title_word_drop, rng)
                if rng is not None:
                    query = drop_words(query, options.augment.query_word_drop, rng)
                if not has_image:
                    shown = [False] * options.images
            for place, present in enumerate(shown):
                if not present:
                    image[i, place] = WHITE
            image_present[i] = shown
            queries.append(query)
            texts += fields
            examples.append(example)
        asked, told = numbers_shown(self._tokens, examples, queries, texts, options.texts)
        query_ids, query_mask = self._query_encoder(queries, asked)
        title_ids, title_mask = (x.reshape(count, -1) for x in self._title_encoder(texts, told))
        made: Batch = {
            "query_ids": query_ids,
            "query_mask": query_mask,
            "title_ids": title_ids,
            "title_mask": title_mask,
            **sent,
            "image_present": image_present,
            "product": np.array([example.product for example in examples], np.int32),
            "variant": np.array([hash31(each.variant) if each.variant else -1 for each in examples], np.int32),
            "query": np.array([-1 if masked(each) else query_hash(each.query) for each in examples], np.int32),
            "weight": np.array([example.weight for example in examples], np.float32),
            **(self._words((queries, asked), (texts, told)) if options.words else {}),
            **(self._keywords(examples, self._lexicon) if self._lexicon is not None else {}),
            **faults.arrays(),
        }
        return made if self._buckets is None else cut(made, self._buckets.shape(batch), options.texts)

    def _draws(self, batch: int) -> Sequence[int]:
        """The draws of a global batch."""
        if self._buckets is not None:
            return self._buckets.draws(batch).tolist()
        return range(batch * self._options.batch_size, (batch + 1) * self._options.batch_size)

    def share_memory(self, places: int) -> None:
        """Lets a worker process hand over pictures in memory that it shares, of so many batches at a time."""
        self._shared = places

    @property
    def image_shape(self) -> tuple[int, int, int, int, int]:
        """Of the pictures of a slice."""
        options = self._options
        return options.batch_size // options.process_count, options.images, *self._size, 3

    def _new_images(self) -> tuple[np.ndarray, Batch]:
        """Room for the pictures of a slice, and what the batch tells of them."""
        if self._shared and self._places is None:
            self._places = Places(self.image_shape, self._shared)
        taken = self._places.take() if self._places is not None else None
        if taken is None:
            image = np.empty(self.image_shape, np.uint8)
            return image, {"image": image}
        return taken[0], {IMAGE_TICKET: taken[1]}

    def _numbers(self, draws: Sequence[int]) -> Float64[np.ndarray, "B n"]:
        """Random numbers of these draws, of which each has its own part of one endless sequence."""
        key = np.array([self._options.seed, VIEWS], np.uint64)

        def numbers(first: int, count: int) -> Float64[np.ndarray, "k n"]:
            bits = np.random.Philox(key=key, counter=first * self._blocks)
            return np.random.Generator(bits).random((count, 4 * self._blocks))

        if isinstance(draws, range):
            return numbers(draws.start, len(draws))
        return np.concatenate([numbers(draw, 1) for draw in draws])

    def _shown(
        self,
        example: RawExample,
        rng: np.random.Generator | None,
        numbers: Float64[np.ndarray, " n"],
        out: UInt8[np.ndarray, "N H W 3"],
        faults: Faults,
    ) -> tuple[RawExample, list[bool]]:
        """Renders an example's pictures, as far as they can be decoded.

        Returns:
          The example, masked when nothing of its product is left; and which places of `out` were filled.
        """
        shown = [False] * len(out)
        if example.fault:
            faults.add(UNREADABLE, example.fault)
            return example, shown
        fault = ""
        for place, number in enumerate(self._chosen(len(example.images), rng)):
            view = numbers[VIEW_NUMBERS * place : VIEW_NUMBERS * (place + 1)]
            try:
                self._render((example.product, number), example.images[number], view.tolist(), out[place])
                shown[place] = True
            except BadRecord as error:
                where = example.where() if example.where else f"product {example.product} of {self._source.fingerprint}"
                fault = f"{where} {error}"
                faults.add(UNDECODABLE, fault)
        if fault and not any(shown) and not any(field.strip() for field in (example.title, *example.texts)):
            example = RawExample.unreadable(fault)
        return example, shown

    def _words(self, queries: Texts, texts: Texts) -> Batch:
        T, F = self._title_encoder.max_tokens, self._options.texts
        titles = self._title_encoder.words(*texts).reshape(-1, F, T)
        # A word of a later field is another word, though both count from 0.
        titles = np.where(titles < 0, -1, titles + T * np.arange(F, dtype=np.int32)[:, None])
        return {"query_word": self._query_encoder.words(*queries), "title_word": titles.reshape(-1, F * T)}

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

    def _chosen(self, count: int, rng: np.random.Generator | None) -> list[int]:
        """The numbers of the pictures that are shown, of `count`."""
        if rng is None or count <= self._options.images or self._options.augment is None:
            return list(range(min(count, self._options.images)))
        chosen: list[int] = np.sort(rng.choice(count, self._options.images, replace=False)).tolist()
        return chosen

    def _render(self, key: tuple[int, int], data: bytes, numbers: Sequence[float], out: ImageArray) -> None:
        view = random_view(numbers, self._options.augment) if self._options.augment else WHOLE
        reduction = reduction_of(data, self._size, view)
        image = self._cache.get((*key, reduction))
        if image is None:
            image = decode(data, reduction)
            self._cache.put((*key, reduction), image)
        render(image, self._size, view, out)


def masked(example: RawExample) -> bool:
    """Whether an example is left out of all losses."""
    return example.product == NO_PRODUCT


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


@lru_cache(maxsize=2**17)
def query_hash(query: str) -> int:
    """31-bit hash of a query, equal for queries that differ in case, width or spaces only."""
    return hash31(normalized(query))


@lru_cache(maxsize=2**17)
def hash31(text: str) -> int:
    """31-bit BLAKE2b hash: the same in every process and on every host."""
    return (
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).digest(), "little") & 0x7FFFFFFF
    )
