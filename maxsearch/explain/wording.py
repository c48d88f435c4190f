"""How an explanation is put into words, alike on a page, in a figure and on the terminal."""

from collections.abc import Sequence
from itertools import groupby

from maxsearch.explain.explanation import Explanation, HeatMap, MapKind

NO_PICTURE = "This product has no picture, so there are no maps: its score comes from the title alone."

MAP_TITLES: dict[tuple[MapKind, bool], tuple[str, str]] = {
    ("occlusion", True): (
        "Where the picture answers the query",
        "Occlusion: how much of the score of the picture alone is lost when that place is painted over.",
    ),
    ("aligner", True): (
        "The query's words, as the aligner reads the patches",
        "Aligner: how much nearer a patch is to this word than to keywords on average, as a cosine.",
    ),
    ("aligner", False): (
        "Other words that the aligner reads here",
        "The surest words of the picture that the query does not say, on the same scale.",
    ),
}
PATCH_TITLES: dict[MapKind, tuple[str, str]] = {
    "occlusion": (
        "The best words of each place",
        "The words of query and title, or the model's keywords where it has any, that lose most of their score when "
        "the place is painted over, the most first.",
    ),
    "aligner": (
        "The best words of each patch",
        "The keywords that the aligner finds nearest to the patch, the nearest first.",
    ),
}


def addends(one: Explanation) -> list[tuple[str, float]]:
    """What sums up to the score, and last the score."""
    by = one.contributions
    return [
        ("neither of the two", by.neither),
        ("title", by.title),
        ("image", by.image),
        ("score", one.score),
    ]


def effects(one: Explanation) -> list[tuple[str, float]]:
    """What the score loses without each word."""
    return [(word.word, word.effect) for word in one.words if word.effect is not None]


def kinds(maps: Sequence[HeatMap]) -> list[tuple[tuple[MapKind, bool], list[HeatMap]]]:
    """Maps that stand together: of one kind, of the query's words or of others."""
    return [(key, list(group)) for key, group in groupby(maps, key=lambda one: (one.kind, one.asked))]
