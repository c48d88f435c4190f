"""Where in a picture a word is seen: by painting places over, and by the aligner's cosines.

H x W pixels, R x C cells of a map, P patches, K keywords, n words, D size of the compared vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from maxsearch.config import Config
from maxsearch.data.keywords import Lexicon
from maxsearch.data.records import Product
from maxsearch.data.transforms import eval_image
from maxsearch.explain.contributions import COALITIONS, without_title
from maxsearch.explain.explanation import Grid
from maxsearch.explain.model import ExplainedModel, PatchEncoder

MOST_CELLS = 64  # an occlusion map costs as many products
BEST_WORDS = 3


@dataclass(frozen=True)
class Occlusion:
    """What painting over each cell of the front picture does to the product's vector.

    Attributes:
      rows, columns: of the cells.
      lost: the vector of the picture alone minus that of the picture with a cell painted over, row by row.
    """

    rows: int
    columns: int
    lost: Float32[np.ndarray, "cells D"]

    def maps(self, words: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n R C"]:
        """How much of each word's score is lost, by cell."""
        return (words @ self.lost.T).reshape(len(words), self.rows, self.columns)


def occlusion(model: ExplainedModel, product: Product) -> Occlusion:
    """Paints over one cell of the front picture after the other (Zeiler and Fergus 2014).

    The title is left out, for it would stand in for what is hidden, and the paint is the median colour of the
    picture's border, which is the background of most products (ours). Cells are half a patch wide; where that would be
    more than MOST_CELLS they are larger. Against known places this points better than the patches' cosines and than
    gradient x input (docs/explain.md).

    Args:
      model: the model.
      product: with a picture.
    """
    size, patch = model.config.model.image.size, model.config.model.image.patch
    rows, columns = cells_of(size, patch)
    own = eval_image(product.image, size)
    paint = border_colour(own)
    silent = without_title(product)
    whole = next(iter(model.encode_products([silent], COALITIONS))).p
    return Occlusion(rows, columns, whole - model.encode_painted(silent, painted(own, paint, rows, columns)))


def cells_of(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of the cells of an occlusion map, for a picture of (H, W) pixels and its patches' edge."""
    cell = max(patch // 2, 1)
    while (size[0] // cell) * (size[1] // cell) > MOST_CELLS:
        cell *= 2
    return max(size[0] // cell, 1), max(size[1] // cell, 1)


def border_colour(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, " 3"]:
    """The median colour of a picture's outermost pixels."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    return np.median(border, axis=0).astype(np.uint8)


def painted(
    picture: UInt8[np.ndarray, "H W 3"], paint: UInt8[np.ndarray, " 3"], rows: int, columns: int
) -> UInt8[np.ndarray, "cells H W 3"]:
    """The picture once per cell, with that cell in one colour."""
    down = np.linspace(0, picture.shape[0], rows + 1).round().astype(int)
    across = np.linspace(0, picture.shape[1], columns + 1).round().astype(int)
    copies = np.repeat(picture[None], rows * columns, axis=0)
    for place, copy in enumerate(copies):
        row, column = divmod(place, columns)
        copy[down[row] : down[row + 1], across[column] : across[column + 1]] = paint
    return copies


@dataclass(frozen=True)
class Reading:
    """The aligner's cosines of the front picture's patches with its keywords.

    Attributes:
      words: the keywords.
      lexicon: finds a text's keywords.
      cosines: by row and column of patches.
    """

    words: tuple[str, ...]
    lexicon: Lexicon
    cosines: Float32[np.ndarray, "R C K"]

    def map_of(self, text: str) -> Float[np.ndarray, "R C"] | None:
        """How much nearer a patch is to the text's keywords than to keywords on average; None where it has none."""
        found = self.lexicon.ids(text)
        if not found:
            return None
        centred: Float[np.ndarray, "R C"] = centred_cosines(self.cosines)[..., found].mean(axis=-1)
        return centred

    def seen(self, count: int) -> list[str]:
        """The distinct words that patches are nearest to, the surest first."""
        best, scores = self.cosines.argmax(axis=-1).ravel(), self.cosines.max(axis=-1).ravel()
        order = np.argsort(-scores, kind="stable")
        return list(dict.fromkeys(self.words[best[place]] for place in order))[:count]


def centred_cosines(cosines: Float[np.ndarray, "*R K"]) -> Float[np.ndarray, "*R K"]:
    """Cosines less their mean over keywords.

    Some patches are near every word; only what a patch says of one word more than of others points.
    """
    centred: Float[np.ndarray, "*R K"] = cosines - cosines.mean(axis=-1, keepdims=True)
    return centred


def reading(model: PatchEncoder, product: Product) -> Reading:
    """Reads the front picture of a product with a model that has an aligner."""
    lexicon, (rows, columns) = model.lexicon, grid_of(model.config)
    assert lexicon is not None
    aligned, _, _ = model.patch_words([product])
    K = min(aligned.shape[2], len(lexicon))
    front = aligned[0, : rows * columns, :K].reshape(rows, columns, K)
    return Reading(lexicon.words[:K], lexicon.top(K), front)


def grid_of(config: Config) -> tuple[int, int]:
    """Rows and columns of the patches of a picture."""
    rows, columns = config.model.image.grid
    return rows, columns


def best_words(
    values: Float[np.ndarray, "R C n"], words: Sequence[str], least: float = -np.inf
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The words with the highest values by row and column, best first; of equal ones the earlier comes first.

    Args:
      values: of each word.
      words: their names.
      least: words below this value are left out.
    """

    def of_cell(cell: Float[np.ndarray, " n"]) -> tuple[str, ...]:
        order = np.argsort(-cell, kind="stable")[:BEST_WORDS]
        return tuple(words[place] for place in order if cell[place] >= least)

    return tuple(tuple(of_cell(cell) for cell in row) for row in values)


def as_grid(values: Float[np.ndarray, "R C"]) -> Grid:
    """A map as plain numbers."""
    return tuple(tuple(float(value) for value in row) for row in values)
