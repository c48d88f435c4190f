"""What is told of one query and one product: plain values, the same for a page, a figure, a terminal and an API."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Grid = tuple[tuple[float, ...], ...]  # a picture's cells, row by row
MapKind = Literal["occlusion", "aligner"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Contributions:
    """What title and image add to the score q.p. A further text field counts with the title.

    Attributes:
      both, title_only, image_only, neither: the score of the product as it is, and with the other modalities replaced
        by the null token of a missing one.
      title, image: their Shapley values: the mean of what a modality adds when it comes first and when it comes second.
        `neither + title + image` is the score.
      weights: how much title and image weigh in the product vector, as the fusion tower says; they sum to 1.
      parts: what the title's vector, the image's vector, the visual words' vector (where the model has them) and all of
        them together add, by name; they sum to the score. Empty where the fusion tower sums no vectors.
    """

    both: float
    title_only: float
    image_only: float
    neither: float
    title: float
    image: float
    weights: tuple[float, float]
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class QueryWord:
    """A word of the query as typed.

    Attributes:
      word: between spaces.
      effect: how much of the score is lost when it is left out; None for the only word, and behind the 24th.
    """

    word: str
    effect: float | None


@dataclass(frozen=True)
class HeatMap:
    """A word over the front picture.

    Attributes:
      word: a word of the query, the query as a whole, or a keyword.
      kind: "occlusion" (how much of the word's score with the picture is lost when a place is painted over) or
        "aligner" (how much nearer a patch is to this keyword than to keywords on average, as a cosine).
      asked: whether it is of the query; a keyword that is not is one that the aligner sees there.
      values: by row and column, top left first.
    """

    word: str
    kind: MapKind
    asked: bool
    values: Grid

    @property
    def peak(self) -> float:
        """The highest value."""
        return max(map(max, self.values))


@dataclass(frozen=True)
class Explanation:
    """Why one product has its score for one query.

    Attributes:
      query: as typed.
      product_id, title: of the product.
      pictures: how many the product has; the maps are of the first.
      score: the inner product of the query's vector and the product's.
      contributions: of title and image.
      words: of the query, in order.
      maps: of the query as a whole first, then of its words, then of keywords that the aligner sees; empty without a
        picture.
      patch_kind: what the words of patches come from, as for HeatMap.
      patch_words: by row and column, the best words of each patch, best first; empty without a picture.
      model: the model's fingerprint.
    """

    query: str
    product_id: str
    title: str
    pictures: int
    score: float
    contributions: Contributions
    words: tuple[QueryWord, ...]
    maps: tuple[HeatMap, ...]
    patch_kind: MapKind
    patch_words: tuple[tuple[tuple[str, ...], ...], ...]
    model: str

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"schema_version": SCHEMA_VERSION, "kind": "maxsearch-explanation", **asdict(self)}
