"""The training stream: global batches of (query, product) pairs whose whole position is one integer.

Example k of batch b is global draw b * B + k, or with buckets the draw that they put there, and everything random about
it follows from the seed and that number. So any number of hosts, threads or workers gives the same global batches, and
a stream resumes exactly from the number of its next batch.
"""

import os
import time
from collections.abc import Mapping
from copy import copy
from types import TracebackType
from typing import Any

import grain
import numpy as np
from absl import flags

from maxsearch.data.batches import IMAGE_TICKET, Batch, BatchLoader, StreamOptions
from maxsearch.data.buckets.order import Buckets
from maxsearch.data.faults import Faults
from maxsearch.data.keywords import Lexicon
from maxsearch.data.probe import probe_prefetch
from maxsearch.data.shared import Reader
from maxsearch.data.sources import ExampleSource
from maxsearch.data.tokenize import TextEncoder
from maxsearch.data.tokens.table import TokenTable
from maxsearch.errors import MaxsearchError, UsageError

LAST_BATCH = 2**48


class Stream:
    """An endless iterator of this host's slices of the global batches.

    Attributes:
      next_batch: number of the global batch that comes next; with the fingerprint, the whole state.
      wait_seconds: time spent waiting for batches since the stream was made.
      faults: bad records in the batches handed out since then, which were masked.
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
        self.faults = Faults()
        self._reader = Reader()
        self._examples = 0

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        if self._batches is None:
            self._batches = self._open()
        batch = {name: np.asarray(value) for name, value in next(self._batches).items()}
        if IMAGE_TICKET in batch:
            batch["image"] = self._reader.open(batch.pop(IMAGE_TICKET), self._loader.image_shape)
        self.next_batch += 1
        self.wait_seconds += time.perf_counter() - started
        self.faults.take(batch)
        self._examples += len(batch["product"])
        self.faults.check(self._examples, self._options.max_bad_fraction)
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
            self._batches, self._reader = None, Reader()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> "grain.DatasetIterator[Batch]":
        options = self._options
        ahead = options.prefetch or probe_prefetch(self._loader, self.next_batch)
        # One thread in a worker process would only hand batches from itself to the process's own queue.
        threads = 0 if options.num_workers and options.num_threads == 1 else options.num_threads
        loader = copy(self._loader)
        if options.num_workers and not threads and hasattr(os, "memfd_create"):
            # Those in the queue, one that is made, and two that are trained on or on their way to the devices.
            loader.share_memory(ahead + 3)
        held = ahead if threads else 0
        dataset = (
            grain.MapDataset.range(self.next_batch, LAST_BATCH)
            .map(loader)
            .to_iter_dataset(grain.ReadOptions(num_threads=min(threads, held), prefetch_buffer_size=held))
        )
        if options.num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads absl flags in its workers, which only an absl app parses
            # With threads, a worker's own buffer is the one that holds the batches.
            buffer = 1 if threads else ahead
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
    tokens: TokenTable | None = None,
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
      tokens: the source's table of token ids, of the encoders' tokenizer; None tokenises every text. Batches are the
        same with it.

    Returns:
      A stream of `Batch`. With `num_workers`, the calling script needs an `if __name__ == "__main__"` guard.

    Raises:
      UsageError: the image size or the start makes no sense.
    """
    if min(image_size) < 1:
        raise UsageError(f"the image size {image_size} is empty: choose a height and a width of at least 1")
    if not 0 <= start < LAST_BATCH:
        raise UsageError(f"the stream cannot start at batch {start}: choose 0 or more")
    loader = BatchLoader(source, query_encoder, title_encoder, image_size, options, lexicon, buckets, tokens)
    return Stream(source, loader, options, start, buckets)
