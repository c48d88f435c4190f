"""The figures of one or several prepared datasets, as one value that tables, JSON and the page are made from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maxsearch.data.dataset import PreparedDataset
from maxsearch.data.keys import NONE
from maxsearch.datastats.repeats import Repeats, Shared, repeats, shared
from maxsearch.datastats.scan import CountTokens, Pictures, Scan, scan
from maxsearch.datastats.spread import Concentration, Spread, concentration, spread
from maxsearch.errors import UsageError
from maxsearch.manifest import created_by
from maxsearch.progress import Progress

COMMON_SIZES = 8


@dataclass(frozen=True)
class Tokens:
    """How texts are counted in tokens.

    Attributes:
      count: the number of tokens of each text.
      limits: tokens of "title" and "query" that a model reads; what is longer is cut. May lack them.
    """

    count: CountTokens
    limits: dict[str, int]


@dataclass(frozen=True)
class DatasetFigures:
    """One dataset.

    Attributes:
      name: the folder as it was given.
      fingerprint: of its data.
      image_edge: what its pictures were shrunk to, in pixels.
      counts: numbers of things.
      clicks: the sum of the interactions' weights.
      lengths: of texts, by what is counted ("title words"); absent texts do not count.
      cut: share of the "title"s and distinct "query"s that are longer than the model reads.
      formats: pictures by format.
      sizes: the most common (width, height, pictures).
      pictures: spreads of "width", "height", "kilobytes" and of "images per product".
      activity: spreads of "clicks per query", of "clicks per product" (those without clicks too) and of "interactions
        per query".
      concentration: how unequally "clicks per query" and "clicks per product" are shared out.
      repeats: products that repeat one another.
    """

    name: str
    fingerprint: str
    image_edge: int
    counts: dict[str, int]
    clicks: float
    lengths: dict[str, Spread | None]
    cut: dict[str, float]
    formats: dict[str, int]
    sizes: tuple[tuple[int, int, int], ...]
    pictures: dict[str, Spread | None]
    activity: dict[str, Spread | None]
    concentration: dict[str, Concentration | None]
    repeats: tuple[Repeats, ...]


@dataclass(frozen=True)
class Leakage:
    """What two datasets, named as given, have in common."""

    first: str
    second: str
    shared: tuple[Shared, ...]


@dataclass(frozen=True)
class Report:
    """Everything that is told.

    Attributes:
      datasets: in the order given.
      leakage: of each pair of them.
      notes: what to bear in mind, in sentences.
      examples: texts of the products and queries that the examples name by position:
        {dataset: {"products": {position: [product id, title]}, "interactions": {position: query}}}.
    """

    datasets: tuple[DatasetFigures, ...]
    leakage: tuple[Leakage, ...]
    notes: tuple[str, ...]
    examples: dict[str, dict[str, dict[int, Any]]]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"kind": "maxsearch-data-stats", "created_by": created_by(), **asdict(self)}


def open_datasets(paths: Sequence[Path]) -> list[PreparedDataset]:
    """Opens folders that are to be described together.

    Raises:
      UsageError: none is given, or one twice.
      MaxsearchError: one is no folder of prepared data, or files are missing.
    """
    if not paths:
        raise UsageError("no dataset is named: give a folder that `maxsearch prepare` wrote")
    for number, path in enumerate(paths):
        if path.resolve() in {earlier.resolve() for earlier in paths[:number]}:
            raise UsageError(f"the dataset {path} is named twice: give each folder once")
    return [PreparedDataset.open(path) for path in paths]


def describe(
    datasets: Sequence[PreparedDataset],
    tokens: Tokens | None = None,
    *,
    sampled: Callable[[int], Sequence[int]] = lambda products: (),
    progress: Progress | None = None,
) -> tuple[Report, list[Scan]]:
    """Reads the datasets once each and sums them up.

    Memory grows with the products, pictures and distinct queries (at the peak by about 250 bytes for a product with one
    picture), whatever their texts and pictures hold.

    Args:
      datasets: what `open_datasets` gave.
      tokens: how to count tokens; None counts words only.
      sampled: positions of products, given their number, whose queries the scans shall keep.
      progress: where to report.

    Raises:
      MaxsearchError: a shard is damaged.
    """
    scans = [
        scan(data, None if tokens is None else tokens.count, sampled=sampled(len(data.products)), progress=progress)
        for data in datasets
    ]
    figures = tuple(_figures(data, found, tokens) for data, found in zip(datasets, scans, strict=True))
    leakage = tuple(
        Leakage(figures[i].name, figures[j].name, shared(scans[i], scans[j]))
        for i in range(len(scans))
        for j in range(i + 1, len(scans))
    )
    return Report(figures, leakage, _notes(figures), _examples(datasets, figures, leakage)), scans


def _figures(data: PreparedDataset, found: Scan, tokens: Tokens | None) -> DatasetFigures:
    queries, pictures = found.queries, found.pictures
    per_product = np.bincount(pictures.owner, minlength=len(found.id))
    titled = found.title != NONE
    lengths = {
        "title words": spread(found.title_words[titled]),
        "text words": spread(found.text_words[found.text_words > 0]),
        "query words": spread(queries.words),
    }
    cut = {}
    if tokens is not None and found.title_tokens is not None:
        counted = {"title": found.title_tokens[titled], "query": queries.tokens}
        lengths |= {f"{what} tokens": spread(values) for what, values in counted.items()}
        cut = {
            what: float((counted[what] > limit).mean()) if len(counted[what]) else 0.0
            for what, limit in tokens.limits.items()
        }
    return DatasetFigures(
        name=str(data.path),
        fingerprint=data.fingerprint,
        image_edge=int(data.manifest["image_edge"]),
        counts={
            "products": len(found.id),
            "products without title": int((~titled).sum()),
            "products without image": int((per_product == 0).sum()),
            "products without clicks": int((found.clicks == 0).sum()),
            "images": len(pictures.key),
            "variant groups": len(np.unique(found.variant[found.variant != NONE])),
            "products in a variant group": int((found.variant != NONE).sum()),
            "queries": len(queries.keys),
            "interactions": len(data.interactions),
        },
        clicks=math.fsum(queries.weight),
        lengths=lengths,
        cut=cut,
        formats=_formats(pictures),
        sizes=_sizes(pictures),
        pictures={
            "images per product": spread(per_product),
            "width": spread(pictures.width[pictures.width > 0]),
            "height": spread(pictures.height[pictures.height > 0]),
            "kilobytes": spread(pictures.size / 1000),
        },
        activity={
            "clicks per query": spread(queries.weight, doubling=True),
            "clicks per product": spread(found.clicks, doubling=True),
            "interactions per query": spread(queries.records, doubling=True),
        },
        concentration={
            "clicks per query": concentration(queries.weight),
            "clicks per product": concentration(found.clicks),
        },
        repeats=repeats(found),
    )


def _formats(pictures: Pictures) -> dict[str, int]:
    counts = np.bincount(pictures.format, minlength=len(pictures.formats))
    return {name: int(count) for name, count in zip(pictures.formats, counts, strict=True) if count}


def _sizes(pictures: Pictures) -> tuple[tuple[int, int, int], ...]:
    readable = pictures.width > 0
    together = (pictures.width[readable].astype(np.int64) << 32) | pictures.height[readable]
    values, counts = np.unique(together, return_counts=True)
    order = np.lexsort((values, -counts))[:COMMON_SIZES]
    return tuple((int(values[i] >> 32), int(values[i] & 0xFFFFFFFF), int(counts[i])) for i in order)


def _notes(figures: Sequence[DatasetFigures]) -> tuple[str, ...]:
    notes = ["Titles and queries that differ only in case, width or spaces count as the same."]
    if len({one.image_edge for one in figures}) > 1:
        notes.append(
            "The datasets were prepared with different --image-edge: the same picture may differ in its bytes, and "
            "shared images are then not found."
        )
    return tuple(notes)


def _examples(
    datasets: Sequence[PreparedDataset], figures: Sequence[DatasetFigures], leakage: Sequence[Leakage]
) -> dict[str, dict[str, dict[int, Any]]]:
    """Reads the records that examples name."""
    products: dict[str, set[int]] = {one.name: set() for one in figures}
    interactions: dict[str, set[int]] = {one.name: set() for one in figures}
    for one in figures:
        products[one.name].update(position for kind in one.repeats for group in kind.examples for position in group)
    for pair in leakage:
        for kind in pair.shared:
            wanted = interactions if kind.what == "queries" else products
            for ours, theirs in kind.examples:
                wanted[pair.first].add(ours)
                wanted[pair.second].add(theirs)
    found: dict[str, dict[str, dict[int, Any]]] = {}
    for data, one in zip(datasets, figures, strict=True):
        named = {position: data.products[position] for position in sorted(products[one.name])}
        found[one.name] = {
            "products": {at: [product.product_id, product.title] for at, product in named.items()},
            "interactions": {at: data.interactions[at].query for at in sorted(interactions[one.name])},
        }
    return found
