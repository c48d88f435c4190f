"""The work that every contender does, and the products that it does it on."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maxsearch.config import Augment
from maxsearch.data.dataset import PreparedDataset

QUERY_TOKENS, TITLE_TOKENS = 16, 32
AUGMENT = Augment()
BUFFERED = 4  # batches that each worker holds ahead, with every contender


@dataclass(frozen=True)
class Work:
    """What one contender is asked for.

    Attributes:
      data: a folder that `maxsearch prepare` wrote.
      tokenizer: a folder with a tokenizer, the same for all.
      tars: the same examples as WebDataset shards.
      size: (H, W) of the arrays.
      batch_size: examples of a batch.
      workers: processes that prepare batches; 0 prepares them in the contender's own.
    """

    data: Path
    tokenizer: Path
    tars: Path
    size: tuple[int, int]
    batch_size: int
    workers: int

    @classmethod
    def parse(cls, words: list[str]) -> "Work":
        """The reverse of `words`."""
        parser = argparse.ArgumentParser()
        for name in ("data", "tokenizer", "tars"):
            parser.add_argument(f"--{name}", type=Path)
        for name in ("batch-size", "workers"):
            parser.add_argument(f"--{name}", type=int)
        parser.add_argument("--size", type=int, nargs=2)
        given = vars(parser.parse_args(words))
        return cls(**given | {"size": tuple(given["size"])})

    def words(self) -> list[str]:
        """As flags."""
        paths = [f"--data={self.data}", f"--tokenizer={self.tokenizer}", f"--tars={self.tars}"]
        return [*paths, "--size", *map(str, self.size), f"--batch-size={self.batch_size}", f"--workers={self.workers}"]

    def examples(self) -> Iterator[tuple[str, str, bytes]]:
        """(query, title, JPEG) of every interaction whose product has a picture."""
        dataset = PreparedDataset.open(self.data)
        products = [(product.title, product.image) for product in dataset.products]
        for interaction in dataset.interactions:
            title, image = products[interaction.product]
            if image is not None:
                yield interaction.query, title, image
