"""From the words of `--baseline` to rankers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from maxsearch.errors import UsageError
from maxsearch.evaluation.baselines.bow import BagOfWords
from maxsearch.evaluation.baselines.chance import Chance
from maxsearch.evaluation.baselines.lexical import bm25_ranker, bm25f_ranker, tfidf_ranker
from maxsearch.evaluation.baselines.open_clip import OpenClip
from maxsearch.evaluation.baselines.sentence_transformers import SentenceTransformers
from maxsearch.evaluation.rankers import Ranker

CHOICES = "bm25, bm25f, bm25f:COLUMN,COLUMN, tfidf, random, bow:DATA, st:PATH, open_clip:NAME:PATH"


def parse_baselines(specs: Sequence[str], *, seed: int = 0) -> list[Ranker]:
    """Makes the rankers that --baseline names, each with a name of its own; nothing is loaded yet.

    Args:
      specs: "bm25", "bm25f" (with all attributes, or "bm25f:COLUMN,COLUMN" with some), "tfidf", "random", "bow:DATA",
        "st:PATH" or "open_clip:NAME:PATH".
      seed: of what draws.

    Raises:
      UsageError: one is unknown, lacks a part, names a folder that is not there, or comes twice.
    """
    rankers: list[Ranker] = []
    for number, spec in enumerate(specs):
        if spec in specs[:number]:
            raise UsageError(f"--baseline {spec} is given twice: leave one out")
        ranker = _parsed(spec, seed)
        if any(ranker.name == other.name for other in rankers):
            ranker.name = spec
        rankers.append(ranker)
    return rankers


def _parsed(spec: str, seed: int) -> Ranker:
    kind, colon, rest = spec.partition(":")
    plain: dict[str, Callable[[], Ranker]] = {
        "bm25": bm25_ranker,
        "bm25f": bm25f_ranker,
        "tfidf": tfidf_ranker,
        "random": lambda: Chance(seed),
    }
    if not colon and kind in plain:
        return plain[kind]()
    name, _, path = rest.partition(":")
    if kind == "bm25f" and all(rest.split(",")):
        return bm25f_ranker(rest.split(","))
    if kind == "st" and rest:
        return SentenceTransformers(rest)
    if kind == "open_clip" and name and path:
        return OpenClip(name, path)
    if kind == "bow" and rest:
        if not Path(rest).is_dir():
            raise UsageError(f"--baseline {spec}: {rest} is not a folder: name one that `maxsearch prepare` wrote")
        return BagOfWords(Path(rest), seed=seed)
    raise UsageError(f"--baseline {spec!r} is none that there is: choose from {CHOICES}")
