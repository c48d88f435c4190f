"""The pointing game: does the best place of a word's map lie on what the word names (Zhang et al. 2018)?

R x C cells of a map, P patches, K keywords.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from maxsearch.data.records import Product
from maxsearch.data.synthetic import patch_alignment
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.explain.maps import centred_cosines, grid_of, occlusion
from maxsearch.explain.model import ExplainedModel, PatchEncoder

ALIGNER, RAW, OCCLUSION = "aligner", "raw cosine", "occlusion"
SCHEMA_VERSION = 1


class PointingGame:
    """Counts right points by kind of map."""

    def __init__(self) -> None:
        self._hits: dict[str, list[bool]] = {}
        self._inside: dict[str, list[np.ndarray]] = {}

    def __bool__(self) -> bool:
        return bool(self._hits)

    def add(self, kind: str, values: Float[np.ndarray, "R C"], inside: Bool[np.ndarray, "R C"]) -> None:
        """Plays with one map: its highest value points, and `inside` says which cells are right."""
        self._hits.setdefault(kind, []).append(bool(inside.ravel()[values.argmax()]))
        self._inside.setdefault(kind, []).append(inside.ravel())

    def figures(self) -> dict[str, dict[str, Any]]:
        """By kind of map: the share of right points, that of the best fixed cell, that of an even draw, and how many.

        The best fixed cell is the one that is right most often, which lies in the middle and needs no look at the
        picture. Maps of finer cells have other shares of right cells, so each kind stands beside its own.
        """
        figures = {}
        for kind, hits in self._hits.items():
            inside = np.stack(self._inside[kind])
            figures[kind] = {
                "pointing": float(np.mean(hits)),
                "best fixed": float(inside.mean(axis=0).max()),
                "chance": float(inside.mean()),
                "words": len(hits),
            }
        return figures


def point(
    model: PatchEncoder, record: dict[str, Any], cosines: Mapping[str, Float[np.ndarray, "P K"]], game: PointingGame
) -> None:
    """Plays with each title word of a product that is one keyword, on its first picture.

    Args:
      model: whose cosines they are.
      record: the product's line of alignments.jsonl.
      cosines: of patches and keywords, by kind.
      game: counts.

    Raises:
      UsageError: the model does not read square pictures.
    """
    rows, columns = grid_of(model.config)
    assert model.lexicon is not None
    K = next(iter(cosines.values())).shape[1]
    for word, inside in places(model, record, rows, columns).items():
        ids = model.lexicon.ids(word)
        if len(ids) != 1 or ids[0] >= K:
            continue
        for kind, values in cosines.items():
            front = centred_cosines(values[: rows * columns])[:, ids[0]]
            game.add(kind, front.reshape(rows, columns), inside)


def places(
    model: PatchEncoder, record: dict[str, Any], rows: int, columns: int
) -> dict[str, Bool[np.ndarray, "rows columns"]]:
    """Which cells of a map each title word names.

    Raises:
      UsageError: the model does not read square pictures.
    """
    size = model.config.model.image.size
    if size[0] != size[1] or rows != columns:
        raise UsageError(f"--alignments are of square pictures and the model reads {size}: leave the flag out")
    return patch_alignment(record, rows, 1)


def play(
    model: ExplainedModel, products: Iterable[Product], alignments: Mapping[str, dict[str, Any]], most: int
) -> dict[str, Any]:
    """Plays the game with every kind of map that a model has, as JSON values.

    With an aligner, all kinds play with the same words: those that are one keyword each.

    Args:
      model: the model.
      products: records.
      alignments: lines of a synthetic catalogue's alignments.jsonl by product_id.
      most: products to play with, the first ones that have a picture and places.

    Raises:
      UsageError: `alignments` name no word of the products, or the model does not read square pictures.
    """
    game, count = PointingGame(), 0
    pictured = (one for one in products if one.images and one.product_id in alignments)
    for product in islice(pictured, most):
        record = alignments[product.product_id]
        hidden = occlusion(model, product)
        inside = places(model, record, hidden.rows, hidden.columns)
        words = [word for word in inside if not model.aligns or _is_keyword(model, word)]
        for word, values in zip(words, hidden.maps(model.encode_queries(words)), strict=True):
            game.add(OCCLUSION, values, inside[word])
        if model.aligns:
            aligned, raw, _ = model.patch_words([product])
            point(model, record, {ALIGNER: aligned[0], RAW: raw[0]}, game)
        count += 1
    if not game:
        raise UsageError("--alignments names no word of these products: give the file that was drawn with them")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "maxsearch-pointing",
        "model_fingerprint": model.fingerprint,
        "products": count,
        "maps": game.figures(),
    }


def _is_keyword(model: PatchEncoder, word: str) -> bool:
    assert model.lexicon is not None
    ids = model.lexicon.ids(word)
    return len(ids) == 1 and ids[0] < model.config.model.keywords


def read_alignments(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of alignments.jsonl by product_id.

    Raises:
      MaxsearchError: the file cannot be read, or a line is none of `write_catalogue`.
    """
    records = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                record = json.loads(line)
                if not {"product_id", "image_edge", "title_words"} <= record.keys():
                    raise MaxsearchError(
                        f"line {number} of {path} is no alignment: give alignments.jsonl of a synthetic catalogue"
                    )
                records[record["product_id"]] = record
    except (OSError, ValueError, AttributeError) as error:
        raise MaxsearchError(
            f"the alignments {path} cannot be read ({error}): give alignments.jsonl of a synthetic catalogue"
        ) from None
    return records
