"""What a model is compared with: each a ranker that sees the catalogue once, in order; `parse_baselines` makes them."""

from maxsearch.evaluation.baselines.chance import random_ranking
from maxsearch.evaluation.baselines.lexical import bm25
from maxsearch.evaluation.baselines.spec import parse_baselines

__all__ = ["bm25", "parse_baselines", "random_ranking"]
