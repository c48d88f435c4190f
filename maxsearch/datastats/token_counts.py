"""Lengths of texts in the tokens of a tokenizer."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from maxsearch.data.tokenize import load_tokenizer
from maxsearch.datastats.scan import CountTokens


def token_counter(folder: Path) -> CountTokens:
    """A function that counts the tokens of each text as a model reads them, special tokens too, but uncut.

    Args:
      folder: of a fast tokenizer.

    Raises:
      UsageError: there is none, or one that cannot be used.
    """
    backend = Tokenizer.from_str(load_tokenizer(folder).backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        distinct = list(dict.fromkeys(texts))
        encodings = backend.encode_batch([text.encode("utf-8", "replace").decode() for text in distinct])
        # A text without tokens of its own is empty, whatever the template adds.
        lengths = [0 if all(one.special_tokens_mask) else len(one.ids) for one in encodings]
        found = dict(zip(distinct, lengths, strict=True))
        return [found[text] for text in texts]

    return count
