"""What an aligner sees: do a picture's visual words name the product, and do they point at the right place?

A word's score in a picture is its cosine with the patch that it fits best, and the words of a picture are ranked by it.
The same is done with the raw attention of the same model, which compares patch and word by their projections to the
space of queries and products, without the aligner.

n products, P patches, K keywords.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import comb
from typing import Any

import numpy as np
import Stemmer
from jaxtyping import Bool, Float

from maxsearch.data.keywords import may_be_keyword, words_of
from maxsearch.data.records import Product
from maxsearch.errors import MaxsearchError, UsageError
from maxsearch.explain.model import PatchEncoder
from maxsearch.explain.pointing import ALIGNER, RAW, PointingGame, point

SCHEMA_VERSION = 1
BATCH = 128
SHOWN = 8
PRIOR, CHANCE = "most frequent", "chance"


@dataclass
class Pictured:
    """The products that have a picture, and the score of each keyword in it.

    Attributes:
      products: without their pictures' bytes.
      scores: by system, of each keyword.
      game: whether title words' best patches lie on what they name.
    """

    products: list[Product] = field(default_factory=list)
    scores: dict[str, Float[np.ndarray, "n K"]] = field(default_factory=dict)
    game: PointingGame = field(default_factory=PointingGame)


def picture_words(
    encoder: PatchEncoder,
    products: Iterable[Product],
    attributes: Sequence[str],
    *,
    alignments: Mapping[str, dict[str, Any]] | None = None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """How often the words of a picture name the product's attributes, and point at what they name, as JSON values.

    For each attribute: `precision@1` and `hit@3`, the share of products whose best word names the value, and one of
    whose best three does, among all keywords; `asked@1` and `asked@3`, the same among the keywords that name some value
    of the attribute ("what colour is it?"). For all attributes together: `precision@1` and `precision@3`, the mean
    share of the first words that name one of them. A word names a value when it has the stem of one of its words.
    Beside the aligner stand the raw cosines, the words that name most products, always the same ones (they know the
    truth, no picture), and evenly drawn words. `pointing` is the share of title words whose best patch lies on what
    they name, in the first picture, where `alignments` say what that is: the patch whose cosine with the word is
    highest above its mean over all keywords. Beside it stands the one patch that is right most often, which lies in the
    middle and needs no look at the picture.

    Args:
      encoder: the model.
      products: records with attributes.
      attributes: names of columns.
      alignments: lines of a synthetic catalogue's alignments.jsonl by product_id.
      synonyms: further words of an attribute's value.

    Raises:
      UsageError: an attribute or alignments that no product has, or a picture that is not square for `alignments`.
      MaxsearchError: no product has a picture.
    """
    lexicon = encoder.lexicon
    if lexicon is None:
        raise UsageError("this model has no keywords: train one with model.keywords above 0 and an aligner")
    seen = look(encoder, products, alignments or {})
    if not seen.products:
        raise MaxsearchError("no product has a picture, so there is nothing to explain: give a catalogue with pictures")
    if alignments is not None and not seen.game:
        raise UsageError("--alignments names no word of these products: give the file that was drawn with them")
    words = lexicon.words[: next(iter(seen.scores.values())).shape[1]]
    named = {name: naming(words, seen.products, name, synonyms or {}) for name in attributes}
    best = np.argsort(-seen.scores[ALIGNER][:SHOWN], axis=1, kind="stable")[:, :3]
    return {
        "schema_version": SCHEMA_VERSION,
        "model_fingerprint": encoder.fingerprint,
        "products": len(seen.products),
        "vocabulary": len(words),
        "attributes": {name: of_attribute(seen.scores, truth) for name, truth in named.items()},
        "together": together(seen.scores, np.any(list(named.values()), axis=0)) if named else {},
        "pointing": pointing(seen.game),
        "examples": [
            {"product_id": product.product_id, "title": product.title, "words": [words[place] for place in row]}
            for product, row in zip(seen.products, best, strict=False)
        ],
    }


def look(encoder: PatchEncoder, products: Iterable[Product], alignments: Mapping[str, dict[str, Any]]) -> Pictured:
    """Reads every product that has a picture; see `picture_words`."""
    seen = Pictured()
    parts: dict[str, list[np.ndarray]] = {ALIGNER: [], RAW: []}
    pictured = (product for product in products if product.images)
    while chunk := list(islice(pictured, BATCH)):
        aligned, raw, valid = encoder.patch_words(chunk)
        for name, cosines in ((ALIGNER, aligned), (RAW, raw)):
            parts[name].append(np.where(valid[..., None], cosines, -np.inf).max(axis=1))
        for row, product in enumerate(chunk):
            if product.product_id in alignments:
                point(encoder, alignments[product.product_id], {ALIGNER: aligned[row], RAW: raw[row]}, seen.game)
        seen.products += chunk
    seen.scores = {name: np.concatenate(rows) for name, rows in parts.items() if rows}
    return seen


def pointing(game: PointingGame) -> dict[str, float | int]:
    """The shares of right points by system, and how many words they are of; empty where no word has a place."""
    if not game:
        return {}
    figures = game.figures()
    shares = {name: one["pointing"] for name, one in figures.items()}
    same = figures[ALIGNER]
    return {**shares, PRIOR: same["best fixed"], CHANCE: same["chance"], "words": same["words"]}


def naming(
    words: Sequence[str], products: Sequence[Product], attribute: str, synonyms: Mapping[str, Sequence[str]]
) -> Bool[np.ndarray, "n K"]:
    """Which keywords name each product's value of an attribute: those with the stem of one of its words.

    Raises:
      UsageError: no product has the attribute.
    """
    stem = Stemmer.Stemmer("english")
    stems = np.array(stem.stemWords(list(words)))
    values = [product.attributes.get(attribute, "") for product in products]
    if not any(values):
        every = sorted({name for product in products for name in product.attributes})
        raise UsageError(f"--attributes: no product has {attribute!r}, choose from {', '.join(every) or 'none'}")

    def of(value: str) -> Bool[np.ndarray, " K"]:
        texts = (value, *synonyms.get(value, ()))
        said = [word for text in texts for word in words_of(text) if may_be_keyword(word)]
        return np.isin(stems, stem.stemWords(said))

    known = {value: of(value) for value in set(values)}
    return np.stack([known[value] for value in values])


def of_attribute(scores: Mapping[str, Float[np.ndarray, "n K"]], truth: Bool[np.ndarray, "n K"]) -> dict[str, Any]:
    """The figures of one attribute by system, over the products whose value some keyword names."""
    rows = truth.any(axis=1)
    truth, asked = truth[rows], truth.any(axis=0)
    if not len(truth):
        return {"products": 0, "systems": {}}
    prior = np.broadcast_to(truth.mean(axis=0), truth.shape)
    systems = {**{name: values[rows] for name, values in scores.items()}, PRIOR: prior}
    figures = {
        name: {
            "precision@1": hit(values, truth, 1),
            "hit@3": hit(values, truth, 3),
            "asked@1": hit(values[:, asked], truth[:, asked], 1),
            "asked@3": hit(values[:, asked], truth[:, asked], 3),
        }
        for name, values in systems.items()
    }
    right = truth.sum(axis=1)
    figures[CHANCE] = {
        "precision@1": drawn(right, truth.shape[1], 1),
        "hit@3": drawn(right, truth.shape[1], 3),
        "asked@1": drawn(right, int(asked.sum()), 1),
        "asked@3": drawn(right, int(asked.sum()), 3),
    }
    return {"products": len(truth), "asked_words": int(asked.sum()), "systems": figures}


def together(scores: Mapping[str, Float[np.ndarray, "n K"]], truth: Bool[np.ndarray, "n K"]) -> dict[str, Any]:
    """Mean share of the first word, and of the first three, that names one of the attributes, by system."""
    rows = truth.any(axis=1)
    truth = truth[rows]
    if not len(truth):
        return {}
    prior = np.broadcast_to(truth.mean(axis=0), truth.shape)
    systems = {**{name: values[rows] for name, values in scores.items()}, PRIOR: prior}
    figures = {
        name: {f"precision@{k}": float(first(v, truth, k).mean()) for k in (1, 3)} for name, v in systems.items()
    }
    return {**figures, CHANCE: dict.fromkeys(("precision@1", "precision@3"), float(truth.mean()))}


def first(scores: Float[np.ndarray, "n K"], truth: Bool[np.ndarray, "n K"], k: int) -> Bool[np.ndarray, "n k"]:
    """Whether each of the k best words is right; of equal scores the more frequent word comes first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(truth, order, axis=1)


def hit(scores: Float[np.ndarray, "n K"], truth: Bool[np.ndarray, "n K"], k: int) -> float:
    """Share of products one of whose k best words is right."""
    return float(first(scores, truth, k).any(axis=1).mean())


def drawn(right: np.ndarray, words: int, k: int) -> float:
    """The same for k different words drawn evenly, of which `right` are right."""
    k = min(k, words)
    return float(np.mean([1 - comb(words - int(count), k) / comb(words, k) for count in right]))
