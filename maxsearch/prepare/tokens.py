"""The token ids that `prepare --tokenizer` writes beside the shards, once these are complete."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxsearch.data.dataset import Records, Shard
from maxsearch.data.records import Interaction, Product, unpack_interaction, unpack_product
from maxsearch.errors import UsageError
from maxsearch.progress import Progress

TRAIN = "train:"


@dataclass(frozen=True)
class Tokenization:
    """Which tokenizer the texts of the training part are tokenised with.

    Attributes:
      folder: that of a fast tokenizer; None trains one.
      vocab_size: the most tokens of one that is trained.
    """

    folder: Path | None = None
    vocab_size: int = 0

    @classmethod
    def parse(cls, word: str) -> "Tokenization":
        """Reads the flag: FOLDER, or train:VOCAB_SIZE.

        Raises:
          UsageError: the size is no number.
        """
        if not word.startswith(TRAIN):
            return cls(folder=Path(word))
        if not re.fullmatch(r"[0-9]+", size := word.removeprefix(TRAIN)):
            raise UsageError(f"--tokenizer {word} names no vocabulary size: write it as {TRAIN}8192")
        return cls(vocab_size=int(size))

    def check(self) -> None:
        """Meets what cannot be used before any record is read.

        Raises:
          UsageError: the folder holds no tokenizer that will do, or the vocabulary is too small.
        """
        from maxsearch.data.tokenize import MIN_VOCAB_SIZE, load_tokenizer
        from maxsearch.data.tokens.writing import require_framing

        if self.folder is not None:
            require_framing(load_tokenizer(self.folder), str(self.folder))
        elif self.vocab_size < MIN_VOCAB_SIZE:
            raise UsageError(
                f"--tokenizer {TRAIN}{self.vocab_size} is too small a vocabulary: give at least {MIN_VOCAB_SIZE}"
            )

    def apply(
        self, folder: Path, products: dict[str, Any], interactions: dict[str, Any], progress: Progress | None
    ) -> dict[str, Any]:
        """Writes tokenizer and token ids; one pass over the shards, and one more to train.

        Args:
          folder: where the shards lie.
          products: the manifest's account of theirs, as `write_shards` gives it.
          interactions: likewise.
          progress: where to report.

        Returns:
          The manifest's account, as `write_tokens` gives it.
        """
        from maxsearch.data.tokenize import load_tokenizer, train_tokenizer
        from maxsearch.data.tokens.writing import write_tokens

        goods: Records[Product] = Records(_shards(folder, products), unpack_product)
        clicks: Records[Interaction] = Records(_shards(folder, interactions), unpack_interaction)
        if self.folder is None:
            tokenizer = train_tokenizer(_texts(_told(goods, "Learning tokens", progress), clicks), self.vocab_size)
        else:
            tokenizer = load_tokenizer(self.folder)
        return write_tokens(folder, tokenizer, _told(goods, "Tokenising", progress), clicks)


def _shards(folder: Path, part: dict[str, Any]) -> list[Shard]:
    return [Shard(str(folder / shard["name"]), shard["records"]) for shard in part["shards"]]


def _told(products: Records[Product], what: str, progress: Progress | None) -> Iterable[Product]:
    return products if progress is None else progress.track(iter(products), what, total=len(products))


def _texts(products: Iterable[Product], interactions: Iterable[Interaction]) -> Iterator[str]:
    """What `train` learns a tokenizer from."""
    for product in products:
        yield product.title
        yield from filter(None, product.texts)
    for interaction in interactions:
        yield interaction.query
