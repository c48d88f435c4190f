"""The buckets of a run: token counts in RUN/lengths, and from them the lengths that batches are padded to."""

from pathlib import Path
from typing import Any

from maxsearch.config import Config
from maxsearch.config.mixture import parse_mixture
from maxsearch.data.buckets.lengths import Lengths, saved_fingerprint
from maxsearch.data.buckets.order import Buckets, make_buckets
from maxsearch.data.sources import ExampleSource, digest
from maxsearch.data.tokenize import TextEncoder, load_tokenizer
from maxsearch.files import sha256_of
from maxsearch.training.run_folder import LENGTHS, TOKENIZER


def wanted(config: Config) -> bool:
    """Whether a run has buckets."""
    return bool(config.data.buckets or config.data.max_padding)


def text_encoders(tokenizer: Any, config: Config) -> tuple[TextEncoder, TextEncoder]:
    """Of queries and of titles."""
    model = config.model
    return TextEncoder(tokenizer, model.query.max_tokens), TextEncoder(tokenizer, model.title.max_tokens)


def settle_lengths(run: Path, config: Config, source: ExampleSource) -> None:
    """Counts the tokens of all texts, unless they stand there; without buckets does nothing."""
    if not wanted(config):
        return
    tokens = (config.model.query.max_tokens, config.model.title.max_tokens, config.model.texts)
    fingerprint = digest(source.fingerprint, sha256_of(run / TOKENIZER / "tokenizer.json"), *tokens)
    if saved_fingerprint(run / LENGTHS) != fingerprint:
        encoders = text_encoders(load_tokenizer(run / TOKENIZER), config)
        Lengths.count(source, *encoders, config.model.texts).save(run / LENGTHS, fingerprint)


def read_buckets(run: Path, config: Config, source: ExampleSource) -> Buckets | None:
    """The buckets of a run whose tokens are counted, None when it has none.

    Raises:
      MaxsearchError: the counts are damaged.
      UsageError: `data.max_padding` is not to be had.
    """
    if not wanted(config):
        return None
    data = config.data
    return make_buckets(
        source,
        Lengths.load(run / LENGTHS, source.sizes, config.model.texts),
        data.batch_size,
        config.seed,
        limit=data.buckets,
        max_padding=data.max_padding,
        milestones=[step for points in parse_mixture(data.mixture).values() for step, _ in points],
    )


def told(buckets: Buckets) -> str:
    """The lengths and what they save, in words."""
    shapes = ", ".join(f"{shape.query}+{shape.title}" for shape in buckets.shapes)
    return (
        f"batches are padded to {len(buckets.shapes)} lengths (query + text field: {shapes}); "
        f"{100 * buckets.padding(0):.1f} % of the first {buckets.window} batches is padding"
    )
